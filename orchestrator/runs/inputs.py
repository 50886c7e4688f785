"""What a run reads, for its record: training, held-out and evaluation data with their digests."""

from collections.abc import Iterable, Sequence

from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.evaluation import EvaluationSpec, set_name
from orchestrator.spec.facts import ShardsFacts
from orchestrator.storage.store import open_store
from orchestrator.tracking.tracker import Tracker


def record_inputs(
    tracker: Tracker,
    train: Iterable[ShardsFacts],
    heldout: ShardsFacts | None,
    evaluation: EvaluationSpec,
    evaluation_uris: Sequence[str],
    s3: S3Spec,
) -> dict[str, str]:
    """Record the inputs; returns the digests of evaluation sets, by name."""
    for shards in train:
        tracker.log_input("train", shards.uri, shards.selection or shards.digest)
    if heldout is not None:
        tracker.log_input("heldout", heldout.uri, heldout.digest)
    digests = evaluation_digests(evaluation, evaluation_uris, s3)
    for name, uri in zip(evaluation.sets, evaluation_uris, strict=True):
        tracker.log_input(set_name(name), uri, digests[set_name(name)])
    return digests


def evaluation_digests(evaluation: EvaluationSpec, uris: Sequence[str], s3: S3Spec) -> dict[str, str]:
    """Of each set, by its name in metrics: of what is asked and of its shards' index, or of its list of files."""
    return {
        set_name(name): open_labelled_set(open_store(uri, s3), evaluation.layouts.get(name), s3).digest
        for name, uri in zip(evaluation.sets, uris, strict=True)
    }
