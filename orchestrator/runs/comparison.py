"""What one start of a comparison works with, in the driver."""

from dataclasses import dataclass

from orchestrator.runs.agenda import Agenda
from orchestrator.runs.comparison_record import ComparisonRecord
from orchestrator.runs.interrupts import StopRequest
from orchestrator.runs.progress import OnProgress
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.compare_plan import ComparePlan
from orchestrator.spec.resolve_compare import CompareFacts
from orchestrator.storage.lease import Lease
from orchestrator.tracking.prometheus import OnMetrics


@dataclass(frozen=True)
class Comparison:
    """Shared by all trials."""

    spec: CompareSpec
    plan: ComparePlan
    cluster: ClusterSpec
    facts: CompareFacts
    key: str
    """Of the comparison's folder; its runs are recorded below it."""
    record: ComparisonRecord
    agenda: Agenda
    stop: StopRequest
    lease: Lease
    on_progress: OnProgress | None
    on_metrics: OnMetrics | None

    def should_stop(self) -> bool:
        """Whether somebody asked, or another driver may hold the comparison by now; trials hear of either."""
        if self.lease.lost:
            self.stop.ask("the lease went to another holder")
        return self.stop.requested
