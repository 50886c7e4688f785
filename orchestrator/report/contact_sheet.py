"""Test images with their captions and concepts, what each objective took them for, and what it holds to be like them.

Legend: R replicates, T those of all objectives, N rows, H W image.
"""

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.data.concepts import open_finder, open_labeller, open_vocabulary
from orchestrator.data.evaluation_set import EvaluationRow
from orchestrator.data.labelled.labelled_set import LabelledSet, RowRequest
from orchestrator.errors import EvaluationError
from orchestrator.evaluation.metric_words import set_of
from orchestrator.evaluation.predictions import NearestRows, TargetPredictions
from orchestrator.report.evaluation_sets import open_set
from orchestrator.spec.plan import Plan

NUM_IMAGES = 12
_IMAGE_SIZE = 144
_THUMBNAIL_SIZE = 48
_JPEG_QUALITY = 88
_MOST_CHARACTERS = 240
"""Of a caption or class, as shown: some alt texts fill a page."""


@dataclass(frozen=True)
class Guess:
    """What an objective's replicates took an image for."""

    objective: str
    label: str
    """The class that most of them named."""
    is_right: bool
    num_right: int
    num_replicates: int


@dataclass(frozen=True)
class Neighbour:
    """What an objective's first replicate holds to be most like an image."""

    objective: str
    caption: str
    """Of all captions of the set; empty: it embeds none."""
    is_own: bool
    """Whether the caption is one of the image's own."""
    picture: str
    """A ``data:`` URI of the nearest image of the training part; empty: there was no such probe."""


@dataclass(frozen=True)
class SheetImage:
    """One test image."""

    row: int
    picture: str
    """A ``data:`` URI."""
    caption: str
    concepts: tuple[str, ...]
    """That the captions name, of the comparison's vocabulary: what an objective learns that reads concepts."""
    label: str
    guesses: tuple[Guess, ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class ContactSheet:
    """Test images, those that divide the objectives first."""

    probe: str
    target: str
    num_divided: int
    """Of the images, how many some objective gets right and another one wrong."""
    images: tuple[SheetImage, ...]


Predictions = Mapping[str, Sequence[Sequence[TargetPredictions]]]
"""By objective, of each of its replicates."""
NearestOfProbe = Mapping[str, Mapping[int, tuple[int, int]]]
NearestOf = Mapping[str, NearestRows]
"""By objective, of its first replicate."""


@dataclass(frozen=True)
class _Judged:
    """One target of one probe, as all replicates of all objectives answered it."""

    probe: str
    target: str
    row_N: NDArray[np.int64]
    label_N: NDArray[np.int32]
    predicted: dict[str, NDArray[np.int32]]
    """By objective, [replicates, N]."""

    def choose(self) -> tuple[list[int], int]:
        """Places of the rows to show, and how many of them divide the objectives: at most half, and the first others.

        A row divides them if not all replicates of all objectives are alike right or wrong about it.
        """
        right_TN = np.concatenate(list(self.predicted.values())) == self.label_N
        divides_N = right_TN.any(axis=0) & ~right_TN.all(axis=0)
        divided, others = np.flatnonzero(divides_N).tolist(), np.flatnonzero(~divides_N).tolist()
        num_divided = min(len(divided), max(NUM_IMAGES // 2, NUM_IMAGES - len(others)))
        return divided[:num_divided] + others[: NUM_IMAGES - num_divided], num_divided

    def guesses(self, place: int, classes: Sequence[str]) -> Iterator[Guess]:
        """Of each objective for one row."""
        for objective, predicted_RN in self.predicted.items():
            own = predicted_RN[:, place].tolist()
            named, _ = Counter(own).most_common(1)[0]
            label = int(self.label_N[place])
            yield Guess(objective, _shown(classes[named]), named == label, own.count(label), len(own))


def make_contact_sheet(metric: str, plan: Plan, predictions: Predictions, nearest: NearestOf) -> ContactSheet:
    """Images of the set that ``metric`` is about.

    Args:
        plan: of a run that was judged on the set; says where it is, and which vocabulary its classes are told apart by.

    Raises:
        EvaluationError: no target that all predict, or a set that the plan does not name or that asks for others since.
        StorageAccessError, ShardReadError, ShardDamagedError: the set cannot be read.
    """
    judged = _find_judged(metric, predictions)
    places, num_divided = judged.choose()
    numbers = [int(judged.row_N[place]) for place in places]
    near = {
        one: {probe: found for (name, probe), found in all_sets.items() if name == set_of(metric)}
        for one, all_sets in nearest.items()
    }
    found = [of_rows for of_probe in near.values() for of_rows in of_probe.values()]
    others = [of_rows[number][0] for of_rows in found for number in numbers if number in of_rows]
    rows, classes = _read(metric, plan, judged, [*numbers, *others])
    concepts_of = _concept_finder(plan)
    images = [
        SheetImage(
            number,
            _to_picture(rows[number].image),
            " / ".join(map(_shown, rows[number].captions)),
            concepts_of(rows[number].captions),
            _shown(classes[judged.label_N[place]]),
            tuple(judged.guesses(place, classes)),
            tuple(_neighbours(near, rows, number)),
        )
        for place in places
        if (number := int(judged.row_N[place])) in rows
    ]
    return ContactSheet(judged.probe, judged.target, num_divided, tuple(images))


def _find_judged(metric: str, predictions: Predictions) -> _Judged:
    """The metric's own target, or the first of its probe or set that all replicates predict."""
    _, set_name, probe, target, _ = metric.split("/")
    by_key = [
        (objective, {(one.probe, one.target): one for one in of_run if one.set == set_name})
        for objective, runs in predictions.items()
        for of_run in runs
    ]
    common = [key for key in (by_key[0][1] if by_key else ()) if all(key in own for _, own in by_key)]
    if not common:
        raise EvaluationError(f"no target of evaluation set {set_name!r} was predicted by all replicates")
    chosen = min(common, key=lambda key: (key[0] != probe, key[1] != target))
    first = by_key[0][1][chosen]
    predicted: dict[str, list[NDArray[np.int32]]] = {}
    for objective, own in by_key:
        if not np.array_equal(own[chosen].row_N, first.row_N):
            raise EvaluationError(f"the replicates were judged on different rows of evaluation set {set_name!r}")
        predicted.setdefault(objective, []).append(own[chosen].predicted_N)
    stacked = {objective: np.stack(own) for objective, own in predicted.items()}
    return _Judged(*chosen, first.row_N, first.label_N, stacked)


def _read(
    metric: str, plan: Plan, judged: _Judged, numbers: list[int]
) -> tuple[dict[int, EvaluationRow], Sequence[str]]:
    """Rows by their number, and the target's classes."""
    found = open_set(plan, set_of(metric))
    classes = _classes_of(found, judged)
    request = RowRequest(_IMAGE_SIZE, only=frozenset(numbers), caption_fields=plan.evaluation.caption_fields)
    return {row.index: row for row in found.read(request)}, classes


def _classes_of(found: LabelledSet, judged: _Judged) -> Sequence[str]:
    """Of the target; raises EvaluationError where the set has changed so that predictions name others."""
    if judged.target not in found.targets:
        raise EvaluationError(
            f"{found.uri} asks for {', '.join(found.targets) or 'no target'}, where the runs predicted "
            f"{judged.target!r}; put the set back as it was judged"
        )
    classes = found.targets[judged.target].classes
    num_named = 1 + max(int(place.max()) for place in (judged.label_N, *judged.predicted.values()))
    if num_named > len(classes):
        raise EvaluationError(
            f"target {judged.target!r} of {found.uri} has {len(classes)} classes, where the runs predicted {num_named} "
            f"or more; put the set back as it was judged"
        )
    return classes


def _neighbours(
    near: Mapping[str, NearestOfProbe], rows: Mapping[int, EvaluationRow], number: int
) -> Iterator[Neighbour]:
    """Of each objective that has any, for one row."""
    for objective, of_probe in near.items():
        caption = picture = ""
        for nearest, place in (of_probe[probe][number] for probe in of_probe if number in of_probe[probe]):
            if nearest in rows and place < 0:
                picture = _to_picture(rows[nearest].image, _THUMBNAIL_SIZE)
            elif nearest in rows and place < len(rows[nearest].captions):  # else its captions are others by now
                caption = rows[nearest].captions[place]
        if caption or picture:
            yield Neighbour(objective, _shown(caption), caption in rows[number].captions, picture)


def _concept_finder(plan: Plan) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """From captions to the names of the vocabulary's concepts; to none where there is no vocabulary."""
    facts = plan.evaluation_vocabulary or plan.model.vocabulary
    if facts is None:
        return lambda captions: ()
    vocabulary, table = open_vocabulary(facts, plan.s3), open_finder(facts.finder, plan.s3).table
    labeller = open_labeller(vocabulary, facts.finder, plan.s3)
    return lambda captions: tuple(
        table.lemma_names(vocabulary.offsets[output])[0].replace("_", " ")
        for output in labeller.labels_of_all(captions)
    )


def _shown(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


def _to_picture(image_HWC: NDArray[np.uint8], size: int = _IMAGE_SIZE) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).resize((size, size)).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
