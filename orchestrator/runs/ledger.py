"""What a run was trained on: the ledger of its last checkpoint, held against the run's order."""

from dataclasses import dataclass

from orchestrator.data.ledger import Ledger
from orchestrator.data.ledger_report import LedgerRow, report_ledger
from orchestrator.errors import RunNotFoundError
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.training.checkpoint_folders import LEDGER_FILE, find_stored, read_attachment
from orchestrator.training.data_parts import chunk_tables, load_indexes, sample_order


@dataclass(frozen=True)
class RunLedgerReport:
    """The ledger of a run at its last checkpoint."""

    step: int
    datasets: tuple[str, ...]
    """URIs; a row's ``dataset`` is an index into them."""
    rows: tuple[LedgerRow, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether every sample had its turn once."""
        return all(row.is_healthy for row in self.rows)


def report_run_ledger(run_uri: str, cluster: ClusterSpec) -> RunLedgerReport:
    """Read the ledger of a run's newest complete checkpoint.

    Raises:
        RunNotFoundError: there is no run, no checkpoint, or a run on synthetic data, which has no ledger.
        DatasetError: the shards were indexed anew since.
    """
    store, plan, _ = open_run(run_uri, cluster.storage.s3)
    stored = find_stored(store)
    if stored is None:
        raise RunNotFoundError(f"{run_uri} has no complete checkpoint yet, and so no ledger")
    data = read_attachment(store, stored, LEDGER_FILE)
    tables = chunk_tables(load_indexes(plan))
    order = sample_order(plan, tables)
    if data is None or order is None:
        raise RunNotFoundError(f"{stored.record.uri} has no {LEDGER_FILE}: synthetic data is not counted")
    source = f"{stored.record.uri}/{LEDGER_FILE}"
    num_chunks, datasets = [table.num_chunks for table in tables], order.datasets
    ledger = Ledger.from_bytes(data, num_chunks, lambda number: datasets[number].masks(), source)
    rows = report_ledger(ledger, order, plan.batch.start(stored.record.step))
    return RunLedgerReport(stored.record.step, tuple(source.shards.uri for source in plan.data.sources), tuple(rows))
