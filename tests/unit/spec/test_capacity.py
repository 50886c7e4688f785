"""Estimates against values that were worked out by hand for a round model, and what they warn of."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.spec.capacity import DECODE_IMAGES_PER_S, Capacity, estimate_capacity
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.describe_capacity import capacity_warnings, describe_capacity
from orchestrator.spec.facts import Facts, FinderFacts, MachineFacts, VocabularyFacts
from orchestrator.spec.memory import BUCKET_ELEMENTS, device_memory
from orchestrator.spec.optimizer import FreezeSpec
from orchestrator.spec.plan import Plan

Resolve = Callable[..., Plan]
CATLIP: dict[str, Any] = {
    "objective": {"name": "catlip"},
    "model": {"preset": "vit_b16"},
    "batch": {"global_size": 256},
}
CUDA = {"count": 2, "accelerator": "cuda"}
VISION = 85_798_656
"""Published parameters of ViT-B/16 without a head; CLIP's has a norm more (two vectors), no patch bias."""
PARAMETERS = VISION + 768 + 1000 * 769


def vocabulary() -> VocabularyFacts:
    finder = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    return VocabularyFacts(uri="v", digest="d", size=1000, finder=finder)


@pytest.fixture
def estimate(resolve: Resolve, facts: Facts, cluster_document: dict[str, Any]) -> Callable[..., tuple[Plan, Capacity]]:
    """``estimate(job, capacity, num_cpus)``: plan and estimates on two CUDA workers."""

    def estimate(
        job: dict[str, Any], capacity: dict[str, Any] | None = None, num_cpus: int = 102, workers: dict[str, Any] = CUDA
    ) -> tuple[Plan, Capacity]:
        place = {"workers": workers, "capacity": capacity or {}}
        machine = MachineFacts(num_cores=num_cpus // 2, num_cpus=num_cpus, decoder="pillow 13.0.0")
        plan = resolve(
            {**CATLIP, **job}, place, facts.model_copy(update={"machine": machine, "vocabulary": vocabulary()})
        )
        return plan, estimate_capacity(plan, ClusterSpec.model_validate({**cluster_document, **place}))

    return estimate


Estimate = Callable[..., tuple[Plan, Capacity]]


def test_parameters_and_checkpoints_are_those_of_the_published_model(estimate: Estimate) -> None:
    _, found = estimate({"ema": {}}, {"upload_mb_per_s": 1000})
    assert found.parameters.total == PARAMETERS
    assert found.checkpoints.bytes == 16 * PARAMETERS
    assert found.checkpoints.kept_bytes == 3 * 16 * PARAMETERS
    assert found.checkpoints.upload_s == pytest.approx(16 * PARAMETERS / 1e9)


def test_state_of_each_zero_stage_is_its_bytes_a_parameter(estimate: Estimate) -> None:
    _, found = estimate({"ema": {}})
    state = {stage: (one.weights, one.optimizer, one.average, one.buffers) for stage, one in found.memory.items()}
    number, bucket = PARAMETERS, 2 * BUCKET_ELEMENTS
    assert state == {
        0: (4 * number, 8 * number, 4 * number, 0),
        1: (2 * number, 6 * number, 2 * number, 2 * bucket),
        2: (2 * number, 6 * number, 2 * number, 2 * bucket),
        3: (2 * (number // 2 + number), 8 * number, 2 * number, bucket),
    }


def test_gradients_of_micro_batches_wait_beside_the_activations_of_the_next(estimate: Estimate) -> None:
    _, once = estimate({"batch": {"global_size": 8}})
    _, twice = estimate({"batch": {"global_size": 16, "micro_size": 4}})
    waiting = {0: 4 * PARAMETERS, 1: 2 * PARAMETERS, 2: 2 * PARAMETERS, 3: 0}
    for stage, memory in twice.memory.items():
        assert memory.waiting == waiting[stage]
        assert memory.activations == once.memory[stage].activations
        moving = max(memory.gradients, memory.activations + memory.waiting)
        assert memory.total == memory.weights + memory.optimizer + memory.buffers + moving


def test_activations_grow_with_images_of_the_largest_phase_and_shrink_with_what_spares_them(estimate: Estimate) -> None:
    # 197 tokens x 768, of 12 layers 16 numbers of 2 bytes each; beside them a layer's gradients and the embeddings.
    plan, found = estimate({})
    layers = 128 * 197 * 768 * 12 * 32
    assert layers < found.memory[1].activations < 1.2 * layers
    large = [{"until_fraction": 0.5, "image_sizes": [224, 320]}]
    changes: list[tuple[dict[str, Any], float]] = [
        ({"resolutions": large}, 401 / 197),
        ({"patch_dropout": 0.5}, 99 / 197),
        ({"activation_checkpointing": True}, (12 / 16 + 1 + 18 / 16 - 9 / 16) / 12.6),
    ]
    for change, factor in changes:
        _, other = estimate({"model": {"preset": "vit_b16", **change}, "batch": {"global_size": 128}})
        assert other.memory[1].activations / found.memory[1].activations == pytest.approx(factor / 2, rel=0.15)
    frozen = plan.model_copy(
        update={"optimizer": plan.optimizer.model_copy(update={"freeze": {"vision": FreezeSpec(layers=6)}})}
    )
    assert device_memory(frozen).activations == pytest.approx(found.memory[1].activations / 2, rel=0.15)


def test_time_and_cost_follow_from_arithmetic_and_peak(estimate: Estimate) -> None:
    plan, found = estimate(
        {}, {"device": "H100", "utilisation": 0.5, "price_per_device_hour": 3, "currency": "EUR"}, 2002
    )
    forward = 35.127e9 + 2 * 768 * 1000  # vision tower, classifier
    assert found.training_flops == pytest.approx(3 * forward, rel=1e-3)
    rate = 2 * 989e12 * 0.5 / (3 * forward)
    assert found.rates.devices == pytest.approx(rate, rel=1e-3)
    assert found.hours == pytest.approx(plan.samples / rate / 3600, rel=1e-3)
    assert found.cost == pytest.approx(2 * 3 * plan.samples / rate / 3600, rel=1e-3)
    assert found.rates.storage_mb_per_s == pytest.approx(
        (1 + 64 / 2048) * rate * 2250 / 1e6, rel=1e-3
    )  # chunks that borders cut
    assert "EUR" in dict(describe_capacity(plan, found))["time"]
    assert not list(capacity_warnings(plan, found))


def test_a_second_forward_pass_costs_its_operations(estimate: Estimate) -> None:
    clip: dict[str, Any] = {"objective": {"name": "clip"}}
    once, twice = (
        estimate({**clip, "batch": {"global_size": 256, "micro_size": size}})[1].training_flops for size in (128, 64)
    )
    assert twice / once == pytest.approx(4 / 3)
    _, recomputed = estimate({**clip, "model": {"preset": "vit_b16", "activation_checkpointing": True}})
    assert recomputed.training_flops / once == pytest.approx(4 / 3)
    frozen = {"learning_rate": 1e-3, "freeze": {"vision": {}}}
    assert estimate({**clip, "optimizer": frozen})[1].training_flops < 0.6 * once


def test_too_few_cores_are_a_warning_with_what_is_needed(estimate: Estimate) -> None:
    plan, found = estimate({}, {"device": "H100"}, 18)
    assert found.rates.loader == 16 / 2 * DECODE_IMAGES_PER_S["fast"]
    assert found.rates.mean == found.rates.loader
    (warning,) = capacity_warnings(plan, found)
    assert f"the loader is the limit: 16 logical CPUs decode {found.rates.loader:,.0f} images/s" in warning
    assert f"{found.rates.decode_cores_per_device:,.1f} cores each" in warning
    _, given = estimate({}, {"device": "H100", "decode_images_per_s_per_core": 1000}, 18)
    assert given.rates.loader == 8000


def test_a_device_that_is_too_small_is_a_warning(estimate: Estimate) -> None:
    plan, found = estimate({"batch": {"global_size": 800}, "precision": "fp32"}, {"device": "L4"}, 2002)
    assert found.rates.devices is None, "the peak of data sheets is for 16 bits"
    (warning,) = capacity_warnings(plan, found)
    assert "24 GB" in warning
    assert "batch.micro_size" in warning


def test_what_is_not_known_is_said(estimate: Estimate) -> None:
    plan, found = estimate({}, workers={"count": 2, "accelerator": "cpu"})
    assert (found.hours, found.cost, found.rates.devices) == (None, None, None)
    said = dict(describe_capacity(plan, found))
    assert "devices: not estimated" in said["rate"]
    assert said["time"].startswith("not estimated")
    assert "upload time not estimated" in said["storage"]
    assert "loader" not in dict(describe_capacity(*estimate({"data": {"kind": "synthetic"}})))["rate"]
