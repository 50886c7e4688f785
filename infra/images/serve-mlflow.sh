#!/usr/bin/env bash
# Starts the tracking server; everything secret comes from the environment (infra/compose, infra/kubernetes).
set -euo pipefail
umask 077
: "${POSTGRES_PASSWORD:?}" "${MLFLOW_AUTH_ADMIN_USERNAME:?}" "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"
: "${MLFLOW_ALLOWED_HOSTS:?hosts by which clients call this server}" "${ARTIFACTS:?s3://BUCKET/PREFIX}"

# The server takes the database's URI with its password: here by environment, where `ps` does not show it.
MLFLOW_BACKEND_STORE_URI=$(python - <<'PYTHON'
import os
from urllib.parse import quote

e = os.environ
user, password = quote(e.get("POSTGRES_USER", "mlflow"), safe=""), quote(e["POSTGRES_PASSWORD"], safe="")
print(f"postgresql://{user}:{password}@{e.get('POSTGRES_HOST', 'postgres')}:5432/{e.get('POSTGRES_DB', 'mlflow')}")
PYTHON
)
export MLFLOW_BACKEND_STORE_URI

# Users live in their own tables of the same database; a user starts without any permission.
export MLFLOW_AUTH_CONFIG_PATH="$HOME/auth.ini"
python - <<'PYTHON'
import os
from configparser import ConfigParser

config = ConfigParser()
config["mlflow"] = {
    "default_permission": "NO_PERMISSIONS",
    "database_uri": os.environ["MLFLOW_BACKEND_STORE_URI"].rpartition("/")[0].replace("%", "%%") + "/mlflow_users",
}
with open(os.environ["MLFLOW_AUTH_CONFIG_PATH"], "w") as file:
    config.write(file)
PYTHON

exec mlflow server --host 0.0.0.0 --port 5000 --app-name basic-auth \
  --allowed-hosts "$MLFLOW_ALLOWED_HOSTS" --artifacts-destination "$ARTIFACTS" --workers "${MLFLOW_WORKERS:-4}"
