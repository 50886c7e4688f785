"""Turns journal entries into MLflow calls. Every call may be repeated: after a crash an entry comes again.

Metrics carry their own time, and MLflow keeps one value per (name, time, step, value): a repeated batch changes
nothing. Models, inputs and outputs are looked up before they are created.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from orchestrator.errors import TrackingError
from orchestrator.redaction import redact
from orchestrator.tracking import journal
from orchestrator.tracking.journal import Entry
from orchestrator.tracking.mlflow.client import connect, ensure_experiment
from orchestrator.tracking.mlflow.names import accepted_name
from orchestrator.tracking.mlflow.registry import add_version, find_alias
from orchestrator.tracking.tracker import (
    TAG_CHECKPOINT,
    TAG_HEARTBEAT,
    TAG_OBJECTIVE,
    TAG_REASON,
    TAG_RUN_KEY,
    TAG_RUN_URI,
    RunStatus,
    RunTarget,
)

logger = logging.getLogger(__name__)

# Limits of MLflow's API.
_MOST_METRICS = 1000
_MOST_PARAM_CHARACTERS = 6000
_MOST_DIGEST_CHARACTERS = 36

_CHECKPOINT_URI = "checkpoint_uri"
_TAG_DELETED = "deleted"

T = TypeVar("T")


class MlflowDestination:
    """One run's record in MLflow (implements ``shipping.Destination``)."""

    def __init__(self, target: RunTarget, *, owns_run: bool) -> None:
        self._target = target
        self._owns_run = owns_run
        self._run_id: str | None = None
        self._models: dict[str, LoggedModel] | None = None

    @property
    def run_id(self) -> str | None:
        return self._run_id

    def open(self) -> None:
        """Find the run by its key; the owner creates it where there is none, a joining writer raises TrackingError."""
        if self._run_id is not None:
            return
        target = self._target
        self._client: MlflowClient = connect(target.tracking_uri)
        self._experiment_id = ensure_experiment(self._client, target.tracking_uri, target.experiment)
        if (run_id := self._find(target.run_key)) is not None:
            self._run_id = run_id
        elif self._owns_run:
            tags = {name: redact(value) for name, value in target.tags.items()}
            tags |= {TAG_RUN_KEY: target.run_key, TAG_HEARTBEAT: _now_s()} | self._parent_tag()
            run = self._client.create_run(self._experiment_id, run_name=target.run_name, tags=tags)
            self._run_id = run.info.run_id
        else:
            raise TrackingError(f"run {target.run_name} has no record in experiment {target.experiment} yet")

    def _find(self, key: str) -> str | None:
        """Id of the run with that key."""
        found = self._client.search_runs([self._experiment_id], f"tags.`{TAG_RUN_KEY}` = '{key}'", max_results=1)
        return found[0].info.run_id if found else None

    def _parent_tag(self) -> dict[str, str]:
        """Raises TrackingError while the parent has no record."""
        if self._target.parent_key is None:
            return {}
        parent = self._find(self._target.parent_key)
        if parent is None:
            raise TrackingError(f"the run above {self._target.run_name} has no record yet")
        return {MLFLOW_PARENT_RUN_ID: parent}

    def ping(self) -> None:
        self._client.get_run(self._run_id)

    def beat(self) -> None:
        if self._client.get_run(self._run_id).info.status == RunStatus.RUNNING:
            self._tag({TAG_HEARTBEAT: _now_s()})
        else:  # another command took it for dead: the server was away, the machine slept, or its clock is off
            self._set_status(RunStatus.RUNNING, reason="", time_ms=time.time_ns() // 1_000_000)

    def ship(self, entries: Sequence[Entry]) -> list[Entry]:
        match entries[0].kind:
            case journal.METRICS:
                return _deliver(entries, self._ship_metrics)
            case journal.PARAMS:
                return self._ship_params(entries[0])
            case _:
                return _deliver(entries, lambda several: self._ship_one(several[0]))

    def _ship_metrics(self, entries: Sequence[Entry]) -> None:
        self._log_metrics([metric for entry in entries for metric in _metrics(entry)])

    def _ship_params(self, entry: Entry) -> list[Entry]:
        """Returns the entry with the refused values alone."""
        refused = _deliver(list(entry.fields["values"].items()), self._log_params)
        return [replace(entry, fields={"values": dict(refused)})] if refused else []

    def _ship_one(self, entry: Entry) -> None:
        fields = entry.fields
        match entry.kind:
            case journal.TAGS:
                self._tag(fields["values"])
            case journal.TEXT:
                self._client.log_text(self._run_id, fields["text"], fields["name"])
            case journal.INPUT:
                self._client.log_inputs(self._run_id, [_dataset_input(fields)])
            case journal.CHECKPOINT:
                model = self._ensure_model(fields["uri"], fields["step"])
                self._log_metrics(_metrics(entry, model_id=model.model_id))
                self._tag({TAG_CHECKPOINT: fields["uri"]})
            case journal.EVALUATION:
                model = self._ensure_model(fields["uri"], fields["step"])
                digest = fields["digest"][:_MOST_DIGEST_CHARACTERS]
                linked = {"model_id": model.model_id, "dataset_name": fields["dataset"], "dataset_digest": digest}
                self._log_metrics(_metrics(entry, **linked))
            case journal.REMOVAL:
                self._mark_removed(fields["uri"])
            case journal.VERSION:
                self._register(fields)
            case journal.STATUS:
                self._set_status(RunStatus(fields["status"]), fields["reason"], entry.time_ms)
            case unknown:
                raise TrackingError(f"journal entry of unknown kind {unknown!r}: written by another version")

    def _log_metrics(self, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _MOST_METRICS):
            batch = metrics[start : start + _MOST_METRICS]
            self._client.log_batch(self._run_id, metrics=batch, synchronous=True)

    def _log_params(self, values: Sequence[tuple[str, str]]) -> None:
        """MLflow never changes a parameter: what a resume changed becomes a tag."""
        known = self._client.get_run(self._run_id).data.params
        params = [Param(accepted_name(name), value[:_MOST_PARAM_CHARACTERS]) for name, value in values]
        new = [param for param in params if param.key not in known]
        self._client.log_batch(self._run_id, params=new, synchronous=True)
        changed = (param for param in params if known.get(param.key, param.value) != param.value)
        self._tag({f"changed.{param.key}": param.value for param in changed})

    def _tag(self, tags: dict[str, str]) -> None:
        batch = [RunTag(accepted_name(name), value) for name, value in tags.items()]
        self._client.log_batch(self._run_id, tags=batch, synchronous=True)

    def _set_status(self, status: RunStatus, reason: str, time_ms: int) -> None:
        if status is RunStatus.RUNNING:
            self._client.update_run(self._run_id, status=status.value)
            self._tag({TAG_REASON: reason, TAG_HEARTBEAT: str(time_ms // 1000)})
        else:
            self._tag({TAG_REASON: reason})
            self._client.set_terminated(self._run_id, status=status.value, end_time=time_ms)

    def _ensure_model(self, uri: str, step: int) -> LoggedModel:
        """The logged model of a checkpoint: READY, an output of the run, its weights where ``uri`` says."""
        if self._models is None:
            self._models = self._find_models()
        model = self._models.get(uri)
        if model is None:
            model = self._client.create_logged_model(
                self._experiment_id,
                name=f"checkpoint-{step}",
                source_run_id=self._run_id,
                tags={_CHECKPOINT_URI: uri, "mlflow.model.isExternal": "true"},
                params={"step": str(step)},
                model_type=self._target.tags.get(TAG_OBJECTIVE),
            )
        if model.status != LoggedModelStatus.READY:
            model = self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        if uri not in self._models:
            outputs = self._client.get_run(self._run_id).outputs
            if model.model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
                self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step)])
        self._models[uri] = model
        return model

    def _mark_removed(self, uri: str) -> None:
        if self._models is None:
            self._models = self._find_models()
        if (model := self._models.get(uri)) is not None:
            self._client.set_logged_model_tags(model.model_id, {_TAG_DELETED: "true"})

    def _register(self, fields: dict[str, Any]) -> None:
        tags = {TAG_CHECKPOINT: fields["uri"], TAG_RUN_URI: fields["run_uri"]}
        found = find_alias(self._client, fields["model"], fields["alias"])
        is_own = found is not None and found.run_id == self._run_id  # a folder may be that of a run made anew
        if found is not None and is_own and found.tags.get(TAG_CHECKPOINT) == fields["uri"]:
            return
        assert self._run_id is not None, "entries are shipped to a record that is open"
        logged = self._ensure_model(fields["uri"], fields["step"])
        add_version(self._client, fields["model"], fields["alias"], logged, self._run_id, tags)

    def _find_models(self) -> dict[str, LoggedModel]:
        models: dict[str, LoggedModel] = {}
        token: str | None = None
        while True:
            page = self._client.search_logged_models(
                [self._experiment_id], f"source_run_id = '{self._run_id}'", page_token=token
            )
            models |= {model.tags[_CHECKPOINT_URI]: model for model in page if _CHECKPOINT_URI in model.tags}
            token = page.token
            if not token:
                return models


def _deliver(items: Sequence[T], send: Callable[[Sequence[T]], None]) -> list[T]:
    """Send as one batch; where MLflow refuses it, halve until the wrong items are alone, and return those."""
    try:
        send(items)
    except MlflowException as error:
        if not _is_refusal(error):
            raise
        if len(items) == 1:
            logger.warning("MLflow refuses: %s", redact(str(error))[:300])
            return list(items)
        half = len(items) // 2
        return _deliver(items[:half], send) + _deliver(items[half:], send)
    return []


def _metrics(entry: Entry, **linked: str) -> list[Metric]:
    fields: dict[str, Any] = entry.fields
    return [
        Metric(accepted_name(name), value, entry.time_ms, fields["step"], **linked)
        for name, value in fields["values"].items()
    ]


def _dataset_input(fields: dict[str, Any]) -> DatasetInput:
    # MLflow's digest is short; the whole one stands in the source.
    source = json.dumps({"uri": fields["uri"], "digest": fields["digest"]})
    scheme = urlsplit(fields["uri"]).scheme or "file"
    dataset = Dataset(fields["name"], fields["digest"][:_MOST_DIGEST_CHARACTERS], scheme, source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _is_refusal(error: MlflowException) -> bool:
    """Whether the content is wrong, so that trying again cannot help."""
    return bool(error.error_code == "INVALID_PARAMETER_VALUE")


def _now_s() -> str:
    return f"{time.time():.0f}"
