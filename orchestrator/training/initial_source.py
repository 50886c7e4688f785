"""What a job starts from (``init``), read: a run's checkpoint or another program's files, under one model's names."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from orchestrator.data.concepts import open_vocabulary
from orchestrator.data.tokens import CaptionTokenizer, load_tokenizer, open_tokenizer
from orchestrator.errors import ModelSourceError
from orchestrator.models.source import TOKENIZER_FILE, VOCABULARY_FILE, SourceModel, holds_model, read_model
from orchestrator.objectives.adopt import names_in_a_model
from orchestrator.spec.init import InitSpec
from orchestrator.spec.plan import PLAN_FILE, Plan, load_plan
from orchestrator.storage.store import ObjectNotFoundError, Store, open_store
from orchestrator.training.checkpoint_folders import StoredCheckpoint, find_stored
from orchestrator.training.stored_tensors import load_weights
from orchestrator.wordnet.vocabulary import Vocabulary


@dataclass(frozen=True)
class InitialSource:
    """Weights to start from, and what they are of."""

    uri: str
    """Of a run: of its checkpoint."""
    state: dict[str, Tensor]
    variant: str
    objective: str | None
    """What they were trained for; none: a tower alone."""
    vocabulary: Vocabulary | None
    """What the rows of their classifier are; none: they have none, it does not say, or nobody asks."""


def read_source(init: InitSpec, plan: Plan) -> InitialSource:
    """Read what ``init`` names, for a job of ``plan``.

    Raises:
        ModelSourceError: nothing there, or as ``find_source_run``.
    """
    wants_rows = plan.model.vocabulary is not None and init.towers is None
    found = find_source_run(init, plan)
    if found is None:
        return _read_files(init, plan, wants_rows)
    store, source, stored = found
    weights = load_weights(store, stored, average=init.weights == "ema")
    facts = source.model.vocabulary if wants_rows else None
    return InitialSource(
        stored.record.uri,
        {names_in_a_model(name)[0]: tensor for name, tensor in weights.items()},
        source.model.variant,
        source.objective.name,
        open_vocabulary(facts, plan.s3) if facts else None,
    )


def find_source_run(init: InitSpec, plan: Plan) -> tuple[Store, Plan, StoredCheckpoint] | None:
    """The run that ``init`` names, its plan and its last checkpoint; None: it names files, or a name on the hub.

    Raises:
        ModelSourceError: no run there, no checkpoint yet, no average of the weights where one is asked for, towers of
            another variant, or a text tower of other tokens.
    """
    if "://" not in init.from_ and not _is_run(Path(init.from_)):
        return None
    store = open_store(init.from_, plan.s3)
    source = _read_plan(store, init)
    stored = _find_checkpoint(store, init)
    _check_variant(init, source.model.variant, plan)
    tokenizer = source.model.tokenizer
    if tokenizer is not None and _wants_tokens(init, plan):
        _check_tokens(init, open_tokenizer(tokenizer, plan.s3), tokenizer.uri, plan)
    return store, source, stored


def _is_run(folder: Path) -> bool:
    # An export holds the plan, too.
    return (folder / PLAN_FILE).is_file() and not holds_model(folder)


def _read_files(init: InitSpec, plan: Plan, wants_rows: bool) -> InitialSource:
    if init.weights == "ema":
        raise ModelSourceError(f"init.weights: {init.from_} is no run, and has one set of weights; leave it out")
    is_lone_file = Path(init.from_).is_file()
    model = read_model(init.from_, plan.model.variant if is_lone_file else None)
    _check_variant(init, model.variant, plan)
    if _wants_tokens(init, plan) and (tokenizer := _tokenizer_beside(model, plan)):
        _check_tokens(init, tokenizer, init.from_, plan)
    beside = None if model.folder is None else model.folder / VOCABULARY_FILE
    is_there = wants_rows and beside is not None and beside.is_file()
    vocabulary = Vocabulary.from_bytes(beside.read_bytes()) if is_there and beside else None
    num_rows = len(model.state.get("classifier.weight", ()))
    if vocabulary is not None and num_rows not in (0, len(vocabulary)):
        raise ModelSourceError(
            f"init.from {init.from_}: its classifier has {num_rows:,} rows, its {VOCABULARY_FILE} {len(vocabulary):,} "
            f"concepts; put the file there that says what the rows are, or set init.towers: [vision]"
        )
    return InitialSource(init.from_, model.state, model.variant, model.objective, vocabulary)


def _check_variant(init: InitSpec, variant: str, plan: Plan) -> None:
    if variant != plan.model.variant:
        raise ModelSourceError(
            f"init.from {init.from_}: its towers are of variant '{variant}', this job's of '{plan.model.variant}'; set "
            f"model.variant: {variant}"
        )


def _wants_tokens(init: InitSpec, plan: Plan) -> bool:
    return plan.model.tokenizer is not None and (init.towers is None or "text" in init.towers)


def _check_tokens(init: InitSpec, tokenizer: CaptionTokenizer, uri: str, plan: Plan) -> None:
    """Whether a row of the token embedding is the same token there and here."""
    assert plan.model.tokenizer is not None, "whoever asks wants tokens"
    theirs, ours = tokenizer.ids, open_tokenizer(plan.model.tokenizer, plan.s3).ids
    if theirs != ours:
        raise ModelSourceError(
            f"init.from {init.from_}: its captions became tokens by another tokenizer than {plan.model.tokenizer.uri}: "
            f"{len(theirs.items() - ours.items()):,} of its {len(theirs):,} tokens have another id here, or none; set "
            f"text.tokenizer to theirs ({uri}), or init.towers: [vision]"
        )


def _tokenizer_beside(model: SourceModel, plan: Plan) -> CaptionTokenizer | None:
    if model.num_tokens is None or model.folder is None or not (model.folder / TOKENIZER_FILE).is_file():
        return None
    return load_tokenizer(str(model.folder), plan.s3, model.canonical_captions)


def _read_plan(store: Store, init: InitSpec) -> Plan:
    try:
        return load_plan(store.read_bytes(PLAN_FILE).decode(), f"{init.from_}/{PLAN_FILE}")
    except ObjectNotFoundError as error:
        raise ModelSourceError(
            f"init.from {init.from_}: no run there; 'orchestrator runs' lists those there are"
        ) from error


def _find_checkpoint(store: Store, init: InitSpec) -> StoredCheckpoint:
    stored = find_stored(store)
    if stored is None:
        raise ModelSourceError(
            f"init.from {init.from_}: the run has no complete checkpoint yet; an export is copied to every node and "
            f"named by its path there"
        )
    if init.weights == "ema" and stored.record.engine.ema_updates is None:
        raise ModelSourceError(f"init.weights: {stored.record.uri} holds no average of the weights; set it to raw")
    return stored
