"""Weights of other programs as a run: ``orchestrator import``.

The run's folder gets one checkpoint at step 0, the tokenizer or the vocabulary that goes with it, and a plan that is
true of the model and says nothing of training: its data is synthetic, its budget one step.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from orchestrator.data.concepts import open_finder
from orchestrator.data.tokens import CaptionTokenizer, load_tokenizer
from orchestrator.env import apply_quiet_env
from orchestrator.errors import ModelSourceError
from orchestrator.models.source import TOKENIZER_FILE, VOCABULARY_FILE, SourceModel, read_model
from orchestrator.objectives.adopt import adopt_weights
from orchestrator.runs.captions import tokenizer_facts
from orchestrator.runs.concept_counts import is_counts_file, read_counted_vocabulary
from orchestrator.runs.made import check_free, write_made_run
from orchestrator.runs.prepare import machine_facts
from orchestrator.runs.vocabulary import vocabulary_facts
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, FinderFacts, TokenizerFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import absolute_uri, join_uri
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan
from orchestrator.storage.store import Store, open_store
from orchestrator.training.parts import block_format, build_plan_objective
from orchestrator.wordnet.finder import mode_of
from orchestrator.wordnet.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_CLIP_TOKENIZER, _CLIP_VOCABULARY = "openai/clip-vit-base-patch32", 49_408
"""The byte pairs of OpenAI's CLIP, which open_clip and corenet use too; a lone weights file does not bring them."""


@dataclass(frozen=True)
class ImportedRun:
    """Where the weights are now, and what they were taken for."""

    plan: Plan
    checkpoint_uri: str


def import_weights(
    source: str,
    name: str,
    cluster: ClusterSpec,
    *,
    variant: str | None = None,
    tokenizer: str | None = None,
    vocabulary: str | None = None,
    noun_table: str | None = None,
    tagger: str | None = None,
    evaluation_sets: Sequence[str] = (),
) -> ImportedRun:
    """Make run ``name`` of the weights at ``source`` (models/source.py).

    Args:
        variant: whose towers they are, where the files do not say.
        tokenizer: folder or hub name; none: beside the weights, or OpenAI's for a vocabulary of that size.
        vocabulary: ``concepts.parquet`` of a classifier's rows, or what ``concept_counts.py`` reads; none: beside the
            weights.
        noun_table: URI or path of the WordNet that its concepts were counted with; none: the packaged one.
        tagger: the same of the tagger, of concepts of mode ``nouns``.
        evaluation_sets: what ``orchestrator evaluate`` judges it on.

    Raises:
        ModelSourceError: weights, tokenizer or vocabulary that do not load or do not fit; says which.
        RunConflictError: the name is taken.
    """
    apply_quiet_env()
    run_uri = join_uri(cluster.storage.runs, name)
    store = open_store(run_uri, cluster.storage.s3)
    check_free(store, name)
    model = read_model(source, variant)
    if model.objective != "catlip":
        job = _describe(model, name, cluster, evaluation_sets)
        found = _find_tokenizer(model, tokenizer, cluster)
        checked = _check_tokens(model, tokenizer_facts(f"{run_uri}/{TOKENIZER_FILE}", found))
        store.write_bytes(TOKENIZER_FILE, found.json.encode())
        facts = Facts(machine=machine_facts(cluster), tokenizer=checked)
    else:
        content = _find_vocabulary(model, vocabulary)
        concepts = Vocabulary.from_bytes(content)
        finder = _find_finder(model, concepts, noun_table, tagger, cluster)
        job = _describe(model, name, cluster, evaluation_sets, finder.model_dump())
        store.write_bytes(VOCABULARY_FILE, content)
        found_facts = vocabulary_facts(f"{run_uri}/{VOCABULARY_FILE}", concepts, finder)
        facts = Facts(machine=machine_facts(cluster), vocabulary=found_facts)
    plan = resolve_plan(job, cluster, facts).model_copy(update={"origin": f"imported from {source}"})
    return ImportedRun(plan, _write(store, plan, model))


def _write(store: Store, plan: Plan, model: SourceModel) -> str:
    objective = build_plan_objective(plan, block_format(plan).vocabulary)
    weights = adopt_weights(objective, model.state, model.uri)
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    state = {"identity": plan.identity_digest, "parents": [{"uri": model.uri}]}
    return write_made_run(store, plan, 0, state, shapes, weights.items()).uri


def _describe(
    model: SourceModel,
    name: str,
    cluster: ClusterSpec,
    evaluation_sets: Sequence[str],
    concepts: Mapping[str, Any] = MappingProxyType({}),
) -> PretrainSpec:
    document: dict[str, Any] = {
        "kind": "pretrain",
        "name": name,
        "objective": {**_objective_of(model), **concepts},
        "data": {"kind": "synthetic"},
        "model": {"preset": model.preset, "variant": model.variant, "image_size": model.image_size},
        "batch": {"global_size": cluster.workers.count},
        "budget": {"steps": 1},
        "optimizer": {"learning_rate": 1e-4},
        "precision": "fp32",
        "evaluation": {"sets": tuple(evaluation_sets)},
    }
    if model.context is not None:
        document["text"] = {"context": model.context}
    try:
        return PretrainSpec.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelSourceError(f"{model.uri} as run '{name}': {where}: {first['msg']}") from error


def _objective_of(model: SourceModel) -> dict[str, str]:
    if model.objective == "siglip":
        return {"name": "siglip", "towers": "siglip" if model.has_siglip_towers else "clip"}
    if model.objective is not None:
        return {"name": model.objective}
    raise ModelSourceError(
        f"{model.uri}: a vision tower alone, without text tower or classifier, is no model that can be judged; "
        f"start a job from it instead (init.from)"
    )


def _find_tokenizer(model: SourceModel, given: str | None, cluster: ClusterSpec) -> CaptionTokenizer:
    source = given
    if source is None and model.folder is not None and (model.folder / TOKENIZER_FILE).is_file():
        source = str(model.folder)
    if source is None and model.num_tokens == _CLIP_VOCABULARY:
        source = _CLIP_TOKENIZER
    if source is None:
        raise ModelSourceError(
            f"{model.uri} brings no tokenizer, and its {model.num_tokens:,} tokens are not those of OpenAI's CLIP; "
            f"name the tokenizer's folder with --tokenizer"
        )
    return load_tokenizer(source, cluster.storage.s3, model.canonical_captions)


def _check_tokens(model: SourceModel, facts: TokenizerFacts) -> TokenizerFacts:
    """Token rows may be more than the tokenizer has, as where they were padded."""
    assert model.num_tokens is not None, "a model with captions has token rows"
    if facts.vocabulary_size > model.num_tokens:
        raise ModelSourceError(
            f"{model.uri} has {model.num_tokens:,} token rows, its tokenizer {facts.vocabulary_size:,} tokens; "
            f"name the tokenizer that it was trained with in --tokenizer"
        )
    pooled_at = facts.vocabulary_size - 1 if model.pooled_at == "greatest" else model.pooled_at
    if pooled_at not in (None, facts.end_id):
        where = "their greatest token id" if model.pooled_at == "greatest" else f"token id {pooled_at}"
        raise ModelSourceError(
            f"{model.uri} pools captions at {where}, but the end token of its tokenizer is {facts.end_id} of "
            f"{facts.vocabulary_size:,}; towers here pool at the end token. Name the tokenizer that it was trained "
            f"with in --tokenizer"
        )
    return facts.model_copy(update={"vocabulary_size": model.num_tokens})


def _find_vocabulary(model: SourceModel, given: str | None) -> bytes:
    beside = None if model.folder is None else model.folder / VOCABULARY_FILE
    file = Path(given).expanduser() if given is not None else beside
    if file is None or not file.is_file():
        raise ModelSourceError(
            f"{model.uri} has a classifier but no {VOCABULARY_FILE}, which says what its rows are; "
            f"name one with --vocabulary, or corenet's file of concepts with counts (.pkl, .json)"
        )
    if is_counts_file(file):
        return read_counted_vocabulary(file, len(model.state["classifier.weight"]))
    return file.read_bytes()


def _find_finder(
    model: SourceModel, vocabulary: Vocabulary, noun_table: str | None, tagger: str | None, cluster: ClusterSpec
) -> FinderFacts:
    """What finds the concepts of a classifier in captions as when they were counted."""
    mode = mode_of(vocabulary.finder)
    if (mode == "nouns") != (tagger is not None):
        advice = "name its tagger in --tagger" if tagger is None else "leave --tagger out"
        raise ModelSourceError(f"{model.uri}: its concepts were counted by mode '{mode}'; {advice}")
    table, tagger = (None if place is None else absolute_uri(place) for place in (noun_table, tagger))
    finder = FinderFacts(mode=mode, noun_table=table, tagger=tagger)
    if (version := open_finder(finder, cluster.storage.s3).version) != vocabulary.finder:
        raise ModelSourceError(
            f"{model.uri}: its concepts were counted with '{vocabulary.finder}' (mode, noun table, tagger), these are "
            f"'{version}'; name what they were counted with in --noun-table and --tagger"
        )
    return finder
