"""The evaluation sets that a run's plan names, as a report finds them."""

from orchestrator.data.labelled.labelled_set import LabelledSet
from orchestrator.data.labelled.recognise import open_labelled_set
from orchestrator.errors import EvaluationError
from orchestrator.spec.evaluation import set_name
from orchestrator.spec.plan import Plan
from orchestrator.storage.store import open_store


def open_set(plan: Plan, name: str) -> LabelledSet:
    """The set that metrics call ``name``.

    Raises:
        EvaluationError: the plan names none such.
        DatasetError, StorageAccessError: as ``open_labelled_set``.
    """
    sets = {set_name(path): path for path in plan.evaluation.sets}
    if name not in sets:
        raise EvaluationError(f"the run's plan names no evaluation set {name!r}; it has {', '.join(sets) or 'none'}")
    uri = plan.evaluation_uris[plan.evaluation.sets.index(sets[name])]
    return open_labelled_set(open_store(uri, plan.s3), plan.evaluation.layouts.get(sets[name]), plan.s3)
