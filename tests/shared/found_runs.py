"""What a run left behind: its weights and its record in MLflow."""

import mlflow
import torch

from orchestrator.runs.pretrain import PretrainResult
from orchestrator.spec.cluster import S3Spec
from orchestrator.storage.store import open_store
from orchestrator.training.checkpoint_folders import find_stored
from orchestrator.training.stored_tensors import load_weights


def weights_of(result: PretrainResult, s3: S3Spec | None = None) -> dict[str, torch.Tensor]:
    """Parameters by name of the last checkpoint."""
    store = open_store(result.run_folder, s3)
    stored = find_stored(store)
    assert stored is not None
    return load_weights(store, stored, average=False)


def recorded(result: PretrainResult) -> "mlflow.entities.Run":
    """The run as MLflow knows it."""
    assert result.mlflow_run_id is not None
    return mlflow.MlflowClient(result.tracking_uri).get_run(result.mlflow_run_id)
