-- MLflow's users beside its runs, in tables of their own.
CREATE DATABASE mlflow_users;
