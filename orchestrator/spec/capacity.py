"""What a run will take, before anything is booked: memory, time, cores, traffic, storage, cost. Pure arithmetic.

Estimates: a device is assumed to reach a share of its peak (``capacity.utilisation``), evaluation and checkpoints are
left out of the time, and nothing is known of a network. What is not known is None.
"""

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.spec.cluster import CapacitySpec, ClusterSpec
from orchestrator.spec.devices import DEVICES
from orchestrator.spec.flops import phase_flops, training_flops
from orchestrator.spec.job import ShardsSpec
from orchestrator.spec.memory import DeviceMemory, captions_per_image, device_memory
from orchestrator.spec.objective import ClipSpec, SiglipSpec
from orchestrator.spec.parameters import Parameters, count_parameters
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.stream_reads import mean_stored_bytes, reads_per_chunk

DECODE_IMAGES_PER_S = {"fast": 439.0, "exact": 373.0}
"""A core, JPEGs of 500x375 and 93 kB to 224 pixels: medians of benchmarks/results/2026-11-22-decode.json."""
_CPUS_PER_CORE = 2  # logical


@dataclass(frozen=True)
class Rates:
    """Samples a second of the whole run, and what they ask for."""

    devices: float | None
    """What the devices take where images are smallest; None: not known."""
    loader: float | None
    """What the cores that read can decode; None: nothing is decoded."""
    mean: float | None
    """Over the run: of devices and loader the slower, phase by phase."""
    decode_cores_per_device: float | None
    """Cores that would feed a device, at the rate of ``devices``."""
    storage_mb_per_s: float | None
    """10^6 bytes a second from the object store, all nodes together."""
    images_mb_per_s: float
    """Between nodes that read and nodes that train, a device; 0 where they are the same."""
    collectives_mb_per_s: float | None
    """Between workers, sent by each: gradients, weights and features."""


@dataclass(frozen=True)
class Checkpoints:
    """What checkpoints take."""

    bytes: int
    kept_bytes: int
    """Of all that are kept at a time."""
    upload_s: float | None


@dataclass(frozen=True)
class Capacity:
    """All estimates of a plan on a cluster."""

    parameters: Parameters
    memory: dict[int, DeviceMemory]
    """By ZeRO stage."""
    device_bytes: int | None
    """Memory of a device."""
    training_flops: float
    """Operations for one sample, mean over the run; what is computed again to save memory included."""
    rates: Rates
    checkpoints: Checkpoints
    hours: float | None
    device_hours: float | None
    cost: float | None
    currency: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with sums that the text says as well."""
        document = asdict(self)
        document["parameters"]["total"] = self.parameters.total
        for stage, memory in self.memory.items():
            document["memory"][stage]["total"] = memory.total
        return document


def estimate_capacity(plan: Plan, cluster: ClusterSpec) -> Capacity:
    """Of a plan on the cluster that it was resolved for."""
    capacity, parameters = cluster.capacity, count_parameters(plan)
    phases = list(phase_flops(plan, recomputed=True))
    device = DEVICES[capacity.device] if capacity.device else None
    rates, hours = _rates(plan, capacity, parameters, phases)
    device_hours = None if hours is None else hours * plan.workers.count
    priced = device_hours is not None and capacity.price_per_device_hour is not None
    return Capacity(
        parameters=parameters,
        memory={stage: device_memory(plan, stage) for stage in range(4)},
        device_bytes=device.memory_gb * 10**9 if device else None,
        training_flops=training_flops(plan, recomputed=True),
        rates=rates,
        checkpoints=_checkpoints(plan, capacity, parameters),
        hours=hours,
        device_hours=device_hours,
        cost=device_hours * capacity.price_per_device_hour if priced else None,  # type: ignore[operator]
        currency=capacity.currency,
    )


def _rates(
    plan: Plan, capacity: CapacitySpec, parameters: Parameters, phases: list[tuple[int, float]]
) -> tuple[Rates, float | None]:
    """And the hours that the run takes."""
    decode, count = _decode_rate(plan, capacity), plan.workers.count
    loader = None if decode is None else plan.stream.ingest_cpus / _CPUS_PER_CORE * decode
    peak = DEVICES[capacity.device].tflops * 1e12 * capacity.utilisation if _has_known_device(plan, capacity) else None  # type: ignore[index]
    devices = mean = hours = None
    if peak is not None:
        by_phase = [(samples, count * peak / flops) for samples, flops in phases]
        devices = max(rate for _, rate in by_phase)
        seconds = sum(samples / min(rate, loader or rate) for samples, rate in by_phase)
        mean, hours = plan.samples / seconds, seconds / 3600
    used = min((rate for rate in (devices, loader) if rate is not None), default=None)
    return Rates(
        devices=devices,
        loader=loader,
        mean=mean,
        decode_cores_per_device=devices / count / decode if devices and decode else None,
        storage_mb_per_s=None if used is None or loader is None else used * _read_bytes(plan) / 1e6,
        images_mb_per_s=_image_bytes(plan) * (used or 0) / count / 1e6,
        collectives_mb_per_s=mean / plan.batch.mean_size(0, plan.steps) * _collective_bytes(plan, parameters) / 1e6
        if mean
        else None,
    ), hours


def _has_known_device(plan: Plan, capacity: CapacitySpec) -> bool:
    return capacity.device is not None and plan.workers.accelerator == "cuda" and plan.precision != "fp32"


def _decode_rate(plan: Plan, capacity: CapacitySpec) -> float | None:
    """Images a second of a core; None for noise, which is not decoded."""
    if not isinstance(plan.data.spec, ShardsSpec):
        return None
    return capacity.decode_images_per_s_per_core or DECODE_IMAGES_PER_S[plan.data.spec.decode]


def _read_bytes(plan: Plan) -> float:
    """Read from the object store for a sample, mean over the sources' shares."""
    return mean_stored_bytes(plan.data.sources) * reads_per_chunk(plan)


def _image_bytes(plan: Plan) -> float:
    """Of a sample between nodes."""
    return plan.stream.block_bytes / plan.batch.micro_size if plan.stream.ingest_labels else 0.0


def _collective_bytes(plan: Plan, parameters: Parameters) -> float:
    """Sent by each worker in a step, by rings: gradients are averaged, weights gathered, features exchanged."""
    count = plan.workers.count
    images = plan.batch.mean_size(0, plan.steps) / count
    captions = images * captions_per_image(plan)
    number = 4 if plan.precision == "fp32" or plan.zero_stage == 0 else 2
    passes = 3 if plan.zero_stage == 3 else 2
    weights = passes * number * parameters.trained * (count - 1) / count
    width = PRESETS[plan.model.preset].embedding_width
    if isinstance(plan.objective, ClipSpec):  # both towers' features, and their gradient back
        return weights + 2 * 4 * width * (images + captions) * (count - 1)
    if isinstance(plan.objective, SiglipSpec):  # captions and their gradient go round
        return weights + 2 * 4 * width * captions * count
    return weights


def _checkpoints(plan: Plan, capacity: CapacitySpec, parameters: Parameters) -> Checkpoints:
    """Masters of all parameters and moments of the trained ones in fp32, and the average."""
    size = 4 * parameters.total + 8 * parameters.trained + (4 * parameters.total if plan.ema else 0)
    kept = plan.checkpoint.keep_last + plan.checkpoint.keep_best
    upload_s = size / 1e6 / capacity.upload_mb_per_s if capacity.upload_mb_per_s else None
    return Checkpoints(size, kept * size, upload_s)
