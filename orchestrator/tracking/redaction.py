"""Keeps secrets out of everything that tracking writes: journals, MLflow, logs."""

import json
import os
import re

from orchestrator.env import SECRETS_ENV

_SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "RAY_AUTH_TOKEN",
)
_SHORTEST_SECRET = 8  # a shorter value ("test") would blank out ordinary words
_USER_IN_URI = re.compile(r"://[^/\s\"'@]+@")
_MASK = "***"


def redact(text: str) -> str:
    """``text`` without the user part of URIs and without the values of secret environment variables.

    Works on plain and on JSON-encoded text alike.
    """
    for name in (*_SECRET_VARIABLES, *os.environ.get(SECRETS_ENV, "").split(",")):
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _MASK).replace(json.dumps(secret)[1:-1], _MASK)
    return _USER_IN_URI.sub(f"://{_MASK}@", text)
