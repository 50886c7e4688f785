"""Which scores an evaluation gives an objective, by name: what the sets' targets and the settings of probes decide.

Not known ahead, and so taken to be there: captions for retrieval, training rows enough for each number of shots, and
judged rows of classes on either side of a vocabulary.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.spec.evaluation import EvaluationSpec
from orchestrator.spec.objective import ObjectiveSection
from orchestrator.spec.targets import TargetSpec

_IMAGE_PROBES = ("linear_probe", "nearest_neighbours", "few_shot")
_DIRECTIONS = ("image_to_text", "text_to_image")
_LOWER_IS_BETTER = ("mean_rank", "median_rank")
_RETRIEVAL_SCORES = ("recall_at_1", "recall_at_5", "recall_at_10", *_LOWER_IS_BETTER)
_VOCABULARY_PARTS = ("_in_vocabulary", "_outside_vocabulary")
_SYNSET_ROWS = "zero_shot.synset_rows"


class MetricName(NamedTuple):
    """The parts of an evaluation metric's name."""

    set: str
    probe: str
    target: str
    """Of the set, a direction of retrieval, or a group of targets."""
    score: str

    def __str__(self) -> str:
        return "/".join(("eval", *self))

    @property
    def higher_is_better(self) -> bool:
        """All scores but ranks."""
        return self.score not in _LOWER_IS_BETTER


@dataclass(frozen=True)
class AskedFacts:
    """What evaluation sets ask."""

    targets: Mapping[str, Mapping[str, TargetSpec]]
    """By the set's name in metrics."""
    divided: Mapping[str, Collection[str]] | None = field(default_factory=dict)
    """By set, targets with classes that the comparison's vocabulary holds and others; None: it is not counted yet."""
    unnamed: Mapping[str, Mapping[str, Collection[str]]] = field(default_factory=dict)
    """By label and set, targets none of whose classes is near a concept of the objective's own vocabulary."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """By set: of what is asked and of the rows; sets whose shards have no index yet are left out."""


def probe_names(objective: ObjectiveSection, evaluation: EvaluationSpec) -> list[str]:
    """Probes that judge an objective, as metrics name them: which features it has follows from what it reads."""
    has_text = objective.reads_captions
    names: list[str] = []
    for probe in evaluation.probes:
        if probe in _IMAGE_PROBES:
            names += [probe, f"{probe}.embedding"] if has_text else [probe]
        elif has_text or probe == "fine_tune":
            names.append(probe)
        elif probe == "zero_shot" and objective.reads_concepts:
            names.append(_SYNSET_ROWS)
    return names


def score_names(
    label: str, objective: ObjectiveSection, evaluation: EvaluationSpec, asked: AskedFacts
) -> list[MetricName]:
    """Every score of an objective, set by set."""
    return [
        name
        for set_name in asked.targets
        for probe in probe_names(objective, evaluation)
        for name in _of_probe(label, set_name, probe, evaluation, asked)
    ]


def say_names(names: Iterable[MetricName]) -> str:
    """Many names in few words: ``eval/scenes-eval/linear_probe/{shape, color}/accuracy; ...``."""
    scores: dict[tuple[str, str, str], list[str]] = {}
    for name in names:
        scores.setdefault((name.set, name.probe, name.target), []).append(name.score)
    targets: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (set_name, probe, target), own in scores.items():
        targets.setdefault((set_name, probe, tuple(own)), []).append(target)
    said = (f"eval/{set_name}/{probe}/{_any(own)}/{_any(of)}" for (set_name, probe, of), own in targets.items())
    return "; ".join(said) or "none"


def _of_probe(
    label: str, set_name: str, probe: str, evaluation: EvaluationSpec, asked: AskedFacts
) -> Iterator[MetricName]:
    if probe == "retrieval":
        yield from (MetricName(set_name, probe, way, score) for way in _DIRECTIONS for score in _RETRIEVAL_SCORES)
        return
    groups: dict[tuple[str, str], None] = {}
    for name, target in asked.targets[set_name].items():
        if probe == _SYNSET_ROWS and name in asked.unnamed.get(label, {}).get(set_name, ()):
            continue
        divided = asked.divided is None or name in asked.divided.get(set_name, ())
        parts = ("", *_VOCABULARY_PARTS) if divided else ("",)
        for score in (f"{base}{part}" for base in _bases(probe, name, target, evaluation) for part in parts):
            yield MetricName(set_name, probe, name, score)
            if score.startswith("accuracy"):
                groups |= {
                    (group, score): None for group in ("named" if target.named_in_captions else "unnamed", "all")
                }
    yield from (MetricName(set_name, probe, group, f"mean_{score}") for group, score in groups)


def _bases(probe: str, name: str, target: TargetSpec, evaluation: EvaluationSpec) -> Sequence[str]:
    """Scores over all classes of a target."""
    kind, first = probe.partition(".")[0], "mean_average_precision" if target.multi_label else "accuracy"
    if kind == "zero_shot" and probe != _SYNSET_ROWS and not target.templates:
        return ()
    if kind == "few_shot":
        return (
            () if target.multi_label else [f"{first}_{shots}_shot" for shots in sorted(set(evaluation.few_shot.shots))]
        )
    if kind == "fine_tune":
        tuned = evaluation.fine_tune
        fractions = sorted(set(tuned.label_fractions)) if not tuned.targets or name in tuned.targets else []
        return [f"{first}_{100 * fraction:g}_percent" for fraction in fractions]
    return (first, "top5_accuracy") if len(target.classes) > 5 and not target.multi_label else (first,)


def _any(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else "{" + ", ".join(words) + "}"
