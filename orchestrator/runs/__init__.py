"""The driver's side of each job: prepare, start, watch, record, finish."""
