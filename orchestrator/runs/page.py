"""A comparison's page on its way to MLflow: through a journal, so that a server that is away gets it later."""

import logging

from orchestrator.errors import OrchestratorError
from orchestrator.runs.compare_folder import read_claim
from orchestrator.runs.folder import tracking_folder
from orchestrator.runs.target import comparison_target
from orchestrator.spec.cluster import S3Spec
from orchestrator.storage.store import open_store
from orchestrator.tracking.mlflow.open import open_tracker

logger = logging.getLogger(__name__)

PAGE_ARTIFACT = "report.html"
_TIMEOUT_S = 10.0


def record_page(comparison_uri: str, s3: S3Spec, page: str) -> None:
    """Keep the page as an artifact of the comparison's run; nothing where the folder was never a comparison's own.

    What goes wrong is said; the page lies in its file all the same.
    """
    try:
        claim = read_claim(open_store(comparison_uri, s3))
        if claim is None:
            return
        plan, key = claim
        folder = tracking_folder(plan.run_uri, key)
        tracker = open_tracker(comparison_target(plan, key), folder, "report", owns_run=False)
        tracker.log_text(PAGE_ARTIFACT, page)
        tracker.close(_TIMEOUT_S)
    except OrchestratorError as error:
        logger.warning("the report is not in MLflow: %s", error)
