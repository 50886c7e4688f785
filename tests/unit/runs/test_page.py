"""A comparison's page gets to MLflow at once or, where no server answers, when its journal is delivered."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from comparisons import ASKED, COMPARE_JOB
from orchestrator.runs import page
from orchestrator.runs.compare_folder import claim_comparison
from orchestrator.runs.folder import tracking_folder
from orchestrator.runs.target import comparison_target
from orchestrator.spec.cluster import ClusterSpec, S3Spec
from orchestrator.spec.compare import CompareSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.resolve_compare import CompareFacts, resolve_compare
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.client import connect
from orchestrator.tracking.mlflow.open import open_tracker, sync_journals


def shown(client: MlflowClient, run_id: str, folder: Path) -> str:
    return Path(client.download_artifacts(run_id, page.PAGE_ARTIFACT, str(folder))).read_text()


def test_a_page_waits_for_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "mlflow"
    place.write_text("a file where the database's folder will be: nobody answers")
    cluster = ClusterSpec.model_validate(
        {
            "name": "here",
            "workers": {"count": 1, "accelerator": "cpu"},
            "storage": {"data": tmp_path.as_uri(), "runs": tmp_path.as_uri()},
            "tracking": {"uri": f"sqlite:///{place}/mlflow.db"},
        }
    )
    facts = Facts(machine=MachineFacts(num_cores=2, num_cpus=4, decoder="d"))
    known = CompareFacts({"clip": facts, "siglip": facts}, ASKED)
    plan = resolve_compare(CompareSpec.model_validate(COMPARE_JOB), cluster, known)
    page.record_page(plan.run_uri, S3Spec(), "nobody's")
    key = claim_comparison(open_store(plan.run_uri), plan)
    folder = tracking_folder(plan.run_uri, key)
    driver = open_tracker(comparison_target(plan, key), folder, "driver", owns_run=True)
    assert driver.close(timeout_s=0.5).entries > 0
    monkeypatch.setattr(page, "_TIMEOUT_S", 0.5)
    page.record_page(plan.run_uri, S3Spec(), "<p>first")

    place.unlink()
    assert [left.entries for left in sync_journals(folder)] == [0, 0]
    client = connect(plan.tracking.uri)
    experiment = client.get_experiment_by_name(plan.tracking.experiment)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert shown(client, run.info.run_id, tmp_path) == "<p>first"
    monkeypatch.setattr(page, "_TIMEOUT_S", 60.0)
    page.record_page(plan.run_uri, S3Spec(), "<p>second")
    assert shown(client, run.info.run_id, tmp_path) == "<p>second"
