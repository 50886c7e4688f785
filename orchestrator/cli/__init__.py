"""The command line: thin commands over ``runs`` and ``data``; the only place that prints."""
