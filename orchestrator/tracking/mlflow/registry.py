"""The model registry: versions of registered models, and the aliases that point at them."""

import re
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from orchestrator.errors import PlanError

_ALIAS = re.compile(r"(?!v\d+$|latest$)[\w-]{1,255}", re.IGNORECASE)
_MODEL = re.compile(r"(?!\s*$)[^/:]+")


def check_names(model: str, alias: str) -> None:
    """MLflow looks at the alias last, when a version with all its weights is there already.

    Raises:
        PlanError: a name that it would refuse.
    """
    if not _MODEL.fullmatch(model):
        raise PlanError(
            f"{model!r} is no name of a registered model: it holds no '/' and no ':'; name one with --model"
        )
    if not _ALIAS.fullmatch(alias):
        raise PlanError(
            f"{alias!r} is no alias: wanted letters, digits, '-' and '_', at most 255, and neither 'latest' nor 'v' "
            f"with a number, which MLflow keeps for itself; give another --alias"
        )


def find_alias(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """The version that has the alias; none: there is no such model or alias."""
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no such alias
            return None
        raise


def add_version(
    client: MlflowClient, model: str, alias: str, logged: LoggedModel, run_id: str, tags: Mapping[str, str]
) -> str:
    """A new version of a registered model, which is made if need be, with the alias; returns the version."""
    _ensure_registered(client, model)
    # By its place: a models:/ URI would be looked up at this process's own tracking URI.
    place = logged.artifact_location
    made = client.create_model_version(model, place, run_id, tags=dict(tags), model_id=logged.model_id)
    client.set_registered_model_alias(model, alias, made.version)
    return str(made.version)


def _ensure_registered(client: MlflowClient, model: str) -> None:
    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
