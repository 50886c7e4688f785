"""Models that went in or came out: their weights and what they see, here and in the libraries they are for."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from foreign import CAPTIONS, CONTEXT, noise_images
from orchestrator.objectives.objective import ZeroShotObjective
from orchestrator.runs.folder import open_run
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.training.checkpoint_folders import find_stored
from orchestrator.training.parts import block_format, build_plan_objective
from orchestrator.training.stored_tensors import load_weights

ROOT = Path(__file__).parents[2]
PEERS = os.environ.get("VLO_PEERS_PYTHON", str(ROOT / ".venv-peers/bin/python"))


def run_uri(cluster: ClusterSpec, name: str) -> str:
    return f"{cluster.storage.runs}/{name}"


def weights_of(cluster: ClusterSpec, name: str) -> dict[str, torch.Tensor]:
    store, _, _ = open_run(run_uri(cluster, name), cluster.storage.s3)
    stored = find_stored(store)
    assert stored is not None
    return load_weights(store, stored, average=False)


@torch.no_grad()
def features_here(cluster: ClusterSpec, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the noise images and of the captions."""
    _, plan, _ = open_run(run_uri(cluster, name), cluster.storage.s3)
    read = block_format(plan)
    objective = build_plan_objective(plan, read.vocabulary).eval()
    objective.load_state_dict(objective.state_dict() | weights_of(cluster, name))
    assert isinstance(objective, ZeroShotObjective)
    assert read.tokenizer is not None
    tokens = torch.from_numpy(read.tokenizer.encode(CAPTIONS, plan.model.context))
    return objective.image_embedding(noise_images()), objective.text_embedding(tokens)


def _pictures() -> list[Image.Image]:
    return [Image.fromarray(image.numpy()) for image in noise_images()]


@torch.no_grad()
def features_in_transformers(folder: Path, model_class: Any = CLIPModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The same through nothing but `transformers`."""
    model = model_class.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images=_pictures(), return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(
        CAPTIONS, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    image = model.get_image_features(pixel_values=pixels.pixel_values).pooler_output
    text = model.get_text_features(input_ids=tokens.input_ids).pooler_output
    return torch.nn.functional.normalize(image, dim=-1), torch.nn.functional.normalize(text, dim=-1)


def features_in_open_clip(folder: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """The same by ``image`` and ``text``, through open_clip in its own environment; skips where there is none."""
    if not Path(PEERS).exists():
        pytest.skip(f"open_clip's environment is not there ({PEERS}); make bench-peers makes it, or VLO_PEERS_PYTHON")
    torch.save({"images": noise_images(), "captions": CAPTIONS}, scratch / "inputs.pt")
    script = ROOT / "tests/shared/open_clip_peer.py"
    command = [PEERS, str(script), str(folder), str(scratch / "inputs.pt"), str(scratch / "outputs.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, torch.Tensor] = torch.load(scratch / "outputs.pt", weights_only=True)
    return found
