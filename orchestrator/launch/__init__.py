"""From a laptop to a cluster: what Kubernetes and Slurm are handed to run a job."""
