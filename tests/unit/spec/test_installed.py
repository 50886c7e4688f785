"""An objective that another installed package brings: found by its entry point, as ours in every other way."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import JobFileError
from orchestrator.models.towers import ModelBuild
from orchestrator.objectives.table import build_objective
from orchestrator.spec import installed
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import load_job
from orchestrator.spec.plan import load_plan
from orchestrator.spec.presets import PRESETS

SPEC = '''
from typing import Literal

from orchestrator import columns
from orchestrator.spec.objective import ObjectiveSection


class BrightnessSpec(ObjectiveSection):
    """Tells how bright an image is."""

    implementation = "brightness.code:BrightnessObjective"
    columns = (columns.IMAGE,)
    contrastive = False

    name: Literal["brightness"]
    weight: float = 1.0
    """Factor on the loss."""


class Wordless(ObjectiveSection):
    """Says nothing of itself."""

    name: Literal["wordless"]
'''
CODE = """
import torch
from torch.nn.functional import mse_loss

from orchestrator import columns
from orchestrator.models.pixels import normalize_pixels
from orchestrator.models.towers import build_vision_tower
from orchestrator.objectives.objective import Export, Objective, concatenate

from brightness.spec import BrightnessSpec


class BrightnessObjective(Objective):
    columns = BrightnessSpec.columns
    contrastive = BrightnessSpec.contrastive

    def __init__(self, spec, vision):
        super().__init__()
        self.vision, self.head, self.weight = vision, torch.nn.Linear(vision.config.hidden_size, 1), spec.weight

    @classmethod
    def build(cls, spec, model, concept_fraction_V):
        return cls(spec, build_vision_tower(model))

    def encode(self, batch):
        image = batch[columns.IMAGE]
        predicted = self.head(self.pooled(image)).squeeze(1)
        return {"predicted_B": predicted.float(), "brightness_B": image.float().mean(dim=(1, 2, 3)) / 255}

    def loss(self, features):
        joined = concatenate(features)
        loss = self.weight * mse_loss(joined["predicted_B"], joined["brightness_B"])
        return loss, {"brightness": joined["brightness_B"].mean()}

    def towers(self):
        return {"vision": self.vision}

    def vision_features(self, image):
        return self.pooled(image).float()

    def pooled(self, image):
        return self.vision(pixel_values=normalize_pixels(image, self.vision.pixels)).pooler_output

    def export(self, state):
        return Export(self.vision, {})
"""
ENTRY_POINTS = """[vl_orchestrator.objectives]
brightness = brightness.spec:BrightnessSpec
wordless = brightness.spec:Wordless
missing = brightness.spec:NotThere
other = brightness.spec:BrightnessSpec
"""
JOB = """
kind: pretrain
name: small
objective: {name: brightness, weight: 2.0}
data: {kind: synthetic}
model: {preset: vit_nano_32}
batch: {global_size: 8}
budget: {steps: 8}
optimizer: {learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``pip install --target`` leaves of a package with one objective."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / "brightness-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "brightness").mkdir()
    (folder / "brightness" / "spec.py").write_text(SPEC)
    (folder / "brightness" / "code.py").write_text(CODE)
    (folder / "brightness" / "__init__.py").touch()
    return folder


@pytest.fixture
def job_file(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(package))
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    yield file
    for name in [name for name in sys.modules if name.partition(".")[0] == "brightness"]:
        del sys.modules[name]


def test_a_job_names_it_and_a_plan_carries_it(job_file: Path, resolve) -> None:
    job = load_job(str(job_file))
    assert isinstance(job, PretrainSpec)
    assert (type(job.objective).__name__, job.objective.weight) == ("BrightnessSpec", 2.0)
    plan = resolve({"objective": job.objective})
    assert plan.identity["objective"] == {"name": "brightness", "weight": 2.0}
    assert load_plan(plan.model_dump_json(), "plan.json") == plan


def test_its_code_is_built_as_ours_is_and_only_then_imported(job_file: Path) -> None:
    job = load_job(str(job_file))
    assert "brightness.code" not in sys.modules
    objective = build_objective(job.objective, ModelBuild(PRESETS["vit_nano_32"], 32, seed=0))
    image = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    loss, metrics = objective.loss([objective.encode({"image": torch.from_numpy(image)})])
    loss.backward()
    assert objective.vision.post_layernorm.weight.grad is not None
    assert metrics["brightness"].item() == pytest.approx(image.mean() / 255)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("weight: 2.0", ["objective.weight: Input should be a valid number", "'heavy'"]),
        ("weight", ["objective.wieght: unknown key 'wieght'; did you mean 'weight'?"]),
        ("brightness,", ["'brightnes' is none of clip, siglip, catlip, brightness,", "did you mean 'brightness'?"]),
    ],
)
def test_a_mistake_in_its_options_is_explained_as_in_ours(job_file: Path, line: str, said: list[str]) -> None:
    wrong = {"weight: 2.0": "weight: heavy", "weight": "wieght", "brightness,": "brightnes,"}[line]
    job_file.write_text(JOB.replace(line, wrong, 1))
    with pytest.raises(JobFileError) as caught:
        load_job(str(job_file))
    assert all(part in str(caught.value) for part in said), caught.value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wordless", "package brightness: brightness.spec:Wordless does not say implementation, columns, contrastive"),
        ("missing", "package brightness does not load: module 'brightness.spec' has no attribute 'NotThere'"),
        ("other", 'does not declare name: Literal["other"]'),
    ],
)
def test_a_package_that_brings_no_objective_is_named(job_file: Path, name: str, said: str) -> None:
    with pytest.raises(JobFileError, match=r"objective: objective '") as caught:
        load_job(str(job_file), [f"objective={{name: {name}}}"])
    assert said in str(caught.value)


def test_nothing_looks_for_packages_while_jobs_name_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "entry_points", lambda **_: pytest.fail("looked for entry points"))
    jobs = Path(__file__).parents[3] / "jobs"
    assert all(load_job(str(file)).kind for file in jobs.glob("*.yaml"))
