"""A promoted run is a model that MLflow and transformers open, and its checkpoint stays."""

import io
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, CLIPModel

from corenet_layout import Vit, shake
from foreign import CAPTIONS, IMAGE_SIZE, NUM_LAYERS, PATCH, WIDTH, noise_images
from orchestrator.errors import PlanError, RunNotFoundError, TrackingError
from orchestrator.runs.folder import open_run
from orchestrator.runs.import_weights import import_weights
from orchestrator.runs.promote import promote_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.storage.store import open_store
from orchestrator.training.checkpoint_folders import PROMOTED, find_checkpoint_of, keep_promoted


def test_a_promoted_run_opens_in_mlflow_and_in_transformers(
    tmp_path: Path, cluster: ClusterSpec, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [f"{cluster.storage.runs}/promoted-{number}" for number in (1, 2)]
    for uri in uris:
        import_weights(str(clip_folder), uri.rpartition("/")[2], cluster)
    step = find_checkpoint_of(open_store(uris[0])).record.step
    first = promote_run(uris[0], cluster, "champion", model="clip", checkpoint=step)
    assert first.checkpoint_uri.endswith(f"step-{step:08d}")
    assert (first.version, first.uri, first.run_before) == ("1", "models:/clip@champion", None)
    stores = [open_run(uri, cluster.storage.s3)[0] for uri in uris]
    plan = open_run(uris[0], cluster.storage.s3)[1]
    assert [info.path for info in stores[0].list(PROMOTED)] == ["promoted/clip@champion.json"]

    monkeypatch.setattr(mlflow, "set_tracking_uri", mlflow.set_tracking_uri)
    mlflow.set_tracking_uri(plan.tracking.uri)
    folder = Path(download_artifacts(first.uri, dst_path=str(tmp_path)))
    exported = folder / "artifacts" / "export"
    loaded = mlflow.pyfunc.load_model(first.uri)
    pictures = [Image.fromarray(image.numpy()) for image in noise_images()]
    found = loaded.predict(pd.DataFrame({"image": [_png(one) for one in pictures], "text": CAPTIONS[:3]}))
    model = CLIPModel.from_pretrained(exported).eval()
    tokens = AutoTokenizer.from_pretrained(exported)(CAPTIONS[:3], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        text = model.get_text_features(input_ids=tokens.input_ids).pooler_output
    expected = torch.nn.functional.normalize(text, dim=-1).numpy()
    np.testing.assert_allclose(np.stack(found["text_embedding"]), expected, atol=1e-5)
    assert np.linalg.norm(np.stack(found["image_embedding"]), axis=1) == pytest.approx([1, 1, 1])

    second = promote_run(uris[1], cluster, "champion", model="clip")
    assert (second.version, second.run_before) == ("2", stores[0].uri)
    assert stores[0].list(PROMOTED) == ()  # the alias has moved
    assert len(stores[1].list(PROMOTED)) == 1
    client = MlflowClient(plan.tracking.uri)
    assert client.get_model_version_by_alias("clip", "champion").version in (2, "2")


def test_a_model_that_transformers_has_no_class_for_is_promoted_and_says_so(
    tmp_path: Path, cluster: ClusterSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(
        shake(Vit(IMAGE_SIZE, PATCH, WIDTH, NUM_LAYERS, 2, nn.Linear(WIDTH, 1))).state_dict(), tmp_path / "vit.pt"
    )
    (tmp_path / "vocab.json").write_text('{"n2084071": 30}')
    made = import_weights(str(tmp_path / "vit.pt"), "to-the-registry", cluster, vocabulary=str(tmp_path / "vocab.json"))
    promoted = promote_run(made.plan.run_uri, cluster, "champion", model="catlip")
    assert "neither transformers nor mlflow.pyfunc opens" in caplog.text
    monkeypatch.setattr(mlflow, "set_tracking_uri", mlflow.set_tracking_uri)
    mlflow.set_tracking_uri(made.plan.tracking.uri)
    exported = Path(download_artifacts(promoted.uri, dst_path=str(tmp_path))) / "artifacts" / "export"
    again = import_weights(str(exported), "from-the-registry", cluster)
    assert again.plan.model.variant == "corenet"
    with pytest.raises(Exception, match=r"transformers has no class for this model"):
        mlflow.pyfunc.load_model(promoted.uri)


def test_what_could_not_be_promoted_is_not_kept(
    cluster: ClusterSpec, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_weights(str(clip_folder), "unknown", cluster)
    uri = f"{cluster.storage.runs}/unknown"
    store = open_store(uri)
    store.write_bytes("run.json", b'{"key": "another"}')
    keep_promoted(store, "clip", "best", 3)
    with pytest.raises(TrackingError, match="has no record in MLflow"):
        promote_run(uri, cluster, "champion", model="clip")
    with pytest.raises(TrackingError):
        promote_run(uri, cluster, "best", model="clip")
    with pytest.raises(RunNotFoundError, match="no complete checkpoint with a held-out loss"):
        promote_run(uri, cluster, "champion", model="clip", checkpoint="best")
    assert [info.path for info in store.list(PROMOTED)] == ["promoted/clip@best.json"]
    assert store.read_bytes("promoted/clip@best.json") == b'{"step": 3}'


def test_a_name_that_mlflow_refuses_leaves_no_version(cluster: ClusterSpec, clip_folder: Path) -> None:
    made = import_weights(str(clip_folder), "misnamed", cluster)
    for model, alias, said in (
        ("misnamed", "the best", r"'the best' is no alias: .*--alias"),
        ("misnamed", "Latest", r"'Latest' is no alias"),
        ("misnamed", "v2", r"'v2' is no alias"),
        ("team/misnamed", "best", r"'team/misnamed' is no name of a registered model: .*--model"),
    ):
        with pytest.raises(PlanError, match=said):
            promote_run(made.plan.run_uri, cluster, alias, model=model)
    versions = MlflowClient(made.plan.tracking.uri).search_model_versions()
    assert not any("misnamed" in version.name for version in versions)
    assert open_store(made.plan.run_uri).list(PROMOTED) == ()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
