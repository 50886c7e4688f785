"""What is recorded of a run: metric names, the journal, and MLflow behind it."""
