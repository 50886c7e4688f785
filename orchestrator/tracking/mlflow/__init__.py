"""The only place that imports mlflow: the client, delivery into it, and the list of runs."""
