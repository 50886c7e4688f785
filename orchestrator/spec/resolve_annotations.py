"""Which annotations a job reads: what its objective asks for, held against what lies beside the shards."""

from collections.abc import Sequence

from orchestrator.errors import PlanError
from orchestrator.spec.annotation import AnnotationColumnFacts, AnnotationFacts, AnnotationNeed, AnnotationPlan
from orchestrator.spec.facts import ShardsFacts
from orchestrator.spec.job import PretrainSpec, ShardsSpec


def annotation_folders(job: PretrainSpec) -> dict[str, str]:
    """Folder below ``_orchestrator`` of each annotation that the objective reads, by the objective's word for it.

    Raises:
        PlanError: the job names one that the objective does not read, or reads annotations of synthetic data.
    """
    needs = [need.name for need in job.objective.annotations]
    if not isinstance(job.data, ShardsSpec):
        if needs:
            raise PlanError(f"objective '{job.objective.name}' reads {', '.join(needs)}, which synthetic data lacks")
        return {}
    for name in job.data.annotations:
        if name not in needs:
            reads = f"reads {', '.join(needs)}" if needs else "reads no annotation"
            raise PlanError(f"data.annotations names '{name}', but objective '{job.objective.name}' {reads}")
    return {name: job.data.annotations.get(name, name) for name in needs}


def resolve_annotations(
    job: PretrainSpec, train: Sequence[ShardsFacts], heldout: ShardsFacts | None
) -> tuple[AnnotationPlan, ...]:
    """Every annotation of the objective, of all sources and of the held-out shards.

    Raises:
        PlanError: one is absent, or its columns are of another kind or width than wanted; as ``annotation_folders``.
    """
    folders = annotation_folders(job)
    plans = []
    for need in job.objective.annotations:
        found = [_find(job, need, folders[need.name], shards) for shards in train]
        of_heldout = None if heldout is None else _find(job, need, folders[need.name], heldout)
        columns = {name: found[0].columns[name] for name in need.columns}
        for facts in (*found, *([of_heldout] if of_heldout else [])):
            _check_widths(need, columns, facts)
        plans.append(
            AnnotationPlan(
                name=need.name,
                folder=folders[need.name],
                columns=columns,
                missing=need.missing,
                digests=tuple(facts.digest for facts in found),
                heldout=of_heldout.digest if of_heldout else None,
            )
        )
    return tuple(plans)


def _find(job: PretrainSpec, need: AnnotationNeed, folder: str, shards: ShardsFacts) -> AnnotationFacts:
    facts = shards.annotations.get(need.name)
    if facts is None:
        raise PlanError(
            f"objective '{job.objective.name}' reads annotation '{need.name}', but {shards.uri} has none in "
            f"_orchestrator/{folder}; make it, or name its folder under data.annotations"
        )
    for name, kind in need.columns.items():
        column = facts.columns.get(name)
        if column is None or column.kind != kind:
            instead = ", ".join(f"{name} ({column.kind})" for name, column in facts.columns.items())
            raise PlanError(
                f"objective '{job.objective.name}' reads {kind} '{name}' of annotation '{need.name}', but "
                f"{shards.uri}/_orchestrator/{folder} has {instead}; name another folder under data.annotations"
            )
    return facts


def _check_widths(need: AnnotationNeed, columns: dict[str, AnnotationColumnFacts], facts: AnnotationFacts) -> None:
    for name, column in columns.items():
        if facts.columns[name] != column:
            raise PlanError(
                f"column '{name}' of annotation '{need.name}' has width {column.width} in one data set of the job and "
                f"{facts.columns[name].width} in another; make it again for one of them"
            )
