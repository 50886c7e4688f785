"""Estimates of a plan as text for people, and what they warn of. Pure."""

from collections.abc import Iterator

from orchestrator.spec.capacity import Capacity
from orchestrator.spec.memory import DeviceMemory
from orchestrator.spec.parameters import Parameters
from orchestrator.spec.plan import Plan

_MEMORY_MARGIN = 0.9  # CUDA's context, the libraries' workspaces and fragmentation take the rest


def describe_capacity(plan: Plan, capacity: Capacity) -> list[tuple[str, str]]:
    """Headings and their text; the last, ``warning``, is there only if there is something to warn of."""
    sections = [
        ("parameters", _describe_parameters(plan, capacity.parameters)),
        ("memory", "\n".join(_describe_memory(plan, capacity))),
        ("rate", "\n".join(_describe_rates(plan, capacity))),
        ("storage", _describe_checkpoints(capacity)),
        ("time", _describe_time(capacity)),
    ]
    warnings = "\n".join(capacity_warnings(plan, capacity))
    return [*sections, ("warning", warnings)] if warnings else sections


def capacity_warnings(plan: Plan, capacity: Capacity) -> Iterator[str]:
    """What will not fit, or will wait."""
    needed, there, rates = capacity.memory[plan.zero_stage].total, capacity.device_bytes, capacity.rates
    if there is not None and needed > _MEMORY_MARGIN * there:
        yield (
            f"{_size(needed)} a device are more than {_MEMORY_MARGIN:.0%} of its {_size(there)}; set a smaller "
            f"batch.micro_size, model.activation_checkpointing, a higher zero_stage, or more workers"
        )
    if rates.devices is not None and rates.loader is not None and rates.loader < rates.devices:
        yield (
            f"the loader is the limit: {plan.stream.ingest_cpus} logical CPUs decode {rates.loader:,.0f} images/s, the "
            f"devices take {rates.devices:,.0f}; they need {rates.decode_cores_per_device:,.1f} cores each: give nodes "
            f"more CPUs, or let other nodes decode (ray.ingest_labels)"
        )


def _describe_parameters(plan: Plan, parameters: Parameters) -> str:
    parts = [f"{name} {_millions(tower.total)}" for name, tower in parameters.towers.items()]
    parts.append(f"head {parameters.head:,}" if parameters.head < 100_000 else f"head {_millions(parameters.head)}")
    text = f"{_millions(parameters.total)}: {', '.join(parts)}"
    if parameters.trained != parameters.total:
        text += f"; {_millions(parameters.trained)} of them trained"
    if plan.objective.reads_concepts and plan.model.vocabulary is None:
        text += "; concepts are not counted yet, so the classifier is left out or taken at its largest"
    return text


def _describe_memory(plan: Plan, capacity: Capacity) -> Iterator[str]:
    memory = capacity.memory[plan.zero_stage]
    yield (
        f"{_size(memory.total)} a device at its peak, ZeRO {plan.zero_stage}, micro batches of "
        f"{plan.batch.micro_size:,} at {plan.model.image_sizes.all[-1]} pixels: {_parts(memory)}"
    )
    others = [
        f"ZeRO {stage} {_size(found.total)}" for stage, found in capacity.memory.items() if stage != plan.zero_stage
    ]
    yield f"at other stages: {', '.join(others)}"


def _parts(memory: DeviceMemory) -> str:
    parts = {"weights": memory.weights, "optimizer": memory.optimizer, "average": memory.average}
    parts["buffers"] = memory.buffers
    said = ", ".join(f"{name} {_size(number)}" for name, number in parts.items() if number)
    waiting = f" beside {_size(memory.waiting)} of gradients" if memory.waiting else ""
    return f"{said}, gradients {_size(memory.gradients)} or, before, activations {_size(memory.activations)}{waiting}"


def _describe_rates(plan: Plan, capacity: Capacity) -> Iterator[str]:
    rates = capacity.rates
    yield f"{capacity.training_flops / 1e9:,.4g} GFLOP to train on a sample, what is computed again included"
    if rates.devices is None:
        yield "devices: not estimated; needs bf16 or fp16 on CUDA, and capacity.device in the cluster file"
    else:
        yield f"devices: {rates.devices:,.0f} samples/s, {rates.devices / plan.workers.count:,.0f} each"
    if rates.loader is not None:
        needed = rates.decode_cores_per_device
        yield f"loader: {rates.loader:,.0f} images/s at most" + (
            f"; {needed:,.1f} physical cores a device would keep up" if needed is not None else ""
        )
        cached = "" if plan.stream.cache is None else ", less what the nodes' cache holds"
        yield f"from the object store: {rates.storage_mb_per_s:,.0f} MB/s at that rate, over all nodes{cached}"
    if rates.images_mb_per_s:
        yield f"images between nodes: {rates.images_mb_per_s:,.0f} MB/s to each device"
    if rates.collectives_mb_per_s is not None:
        yield f"gradients, weights and features between workers: {rates.collectives_mb_per_s:,.0f} MB/s from each"


def _describe_checkpoints(capacity: Capacity) -> str:
    found = capacity.checkpoints
    upload = "upload time not estimated (capacity.upload_mb_per_s)"
    if found.upload_s is not None:
        upload = f"uploaded in {found.upload_s:,.0f} s"
    return f"{_size(found.bytes)} a checkpoint, {upload}; {_size(found.kept_bytes)} of those that are kept"


def _describe_time(capacity: Capacity) -> str:
    if capacity.hours is None:
        return "not estimated: the rate of the devices is not known"
    text = (
        f"{capacity.hours:,.1f} hours at {capacity.rates.mean:,.0f} samples/s, evaluation and checkpoints not counted: "
        f"{capacity.device_hours:,.0f} device-hours"
    )
    if capacity.cost is None:
        return f"{text}; cost not estimated (capacity.price_per_device_hour)"
    return f"{text}, {capacity.cost:,.0f} {capacity.currency}"


def _size(number: int) -> str:
    for unit, bytes_ in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if number >= bytes_:
            return f"{number / bytes_:,.3g} {unit}"
    return f"{number / 1000:,.3g} kB"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.4g} M"
