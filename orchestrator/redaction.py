"""Keeps secrets out of everything that is written or said: journals, MLflow, logs, errors."""

import json
import logging
import os
import re
from urllib.parse import quote

SECRETS_ENV = "ORCHESTRATOR_SECRETS"
"""Names of further variables whose values are kept out of all that is written, joined by commas."""

_SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "RAY_AUTH_TOKEN",
)
_SHORTEST_SECRET = 8  # a shorter value ("test") would blank out ordinary words
_USERS = ("USER", "USERNAME")  # lie beside passwords; no secrets, and a name such as "orchestrator" is a word of ours
_USER_IN_URI = re.compile(r"://[^/\s\"']+@")  # to the last @: a password may hold one
_MASK = "***"


def redact(text: str) -> str:
    """``text`` without the user part of URIs and without the values of secret environment variables.

    Works on plain text, on JSON, on what ``repr`` shows and on parts of URIs.
    """
    for name in (*_SECRET_VARIABLES, *os.environ.get(SECRETS_ENV, "").split(",")):
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET and not name.endswith(_USERS):
            for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe="")):
                text = text.replace(form, _MASK)
    return _USER_IN_URI.sub(f"://{_MASK}@", text)


class RedactingFormatter(logging.Formatter):
    """Records and their tracebacks without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole text, redacted."""
        return redact(super().format(record))
