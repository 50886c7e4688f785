"""A Plan as text for people: what runs, with the arithmetic said aloud. Pure; how it is printed is the CLI's."""

from collections.abc import Iterator

from orchestrator.spec.augmentation import AugmentationSpec
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import ShardsFacts
from orchestrator.spec.flops import vision_flops
from orchestrator.spec.job import EvaluateSpec, PrepareSpec, ShardsSpec
from orchestrator.spec.load import join_uri
from orchestrator.spec.objective import CatlipSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.presets import PRESETS
from orchestrator.spec.resolve_workers import count_workers
from orchestrator.spec.stream_reads import mean_stored_bytes, reads_per_chunk

_MANY_READS = 1.5  # of a chunk: worth a word
_DEVICE_IMAGES_PER_S = 4500  # what a fast device takes of 224 pixel images, the order of magnitude


def describe_plan(plan: Plan) -> list[tuple[str, str]]:
    """Headings and their text, in the order to read them."""
    return [
        (
            "run",
            f"{plan.name}: {plan.objective.name} with {plan.model.preset} ({plan.model.variant}), "
            f"plan {plan.identity_digest}",
        ),
        ("data", _describe_data(plan)),
        ("model", _describe_model(plan)),
        ("start", _describe_start(plan)),
        ("batch", _describe_batch(plan)),
        ("workers", _describe_workers(plan)),
        ("stream", _describe_stream(plan)),
        ("schedule", _describe_schedule(plan)),
        ("checkpoints", _describe_checkpoints(plan.checkpoint)),
        ("evaluation", _describe_evaluation(plan)),
        ("places", _describe_places(plan)),
    ]


def describe_evaluate(job: EvaluateSpec, cluster: ClusterSpec) -> list[tuple[str, str]]:
    """The same for a job that has no Plan of its own: it judges a run by that run's Plan.

    Raises:
        PlanError: the cluster does not offer so many workers.
    """
    count = count_workers(job.workers, cluster)
    uris = [join_uri(cluster.storage.data, name) for name in job.evaluation.sets]
    sets = "\n".join(uris) or "the evaluation sets of the run's plan"
    return [
        ("run", f"{job.run}: its last checkpoint; {join_uri(cluster.storage.runs, job.run)}"),
        ("evaluation", f"{', '.join(job.evaluation.probes)} on {sets}"),
        ("workers", f"{count} x {cluster.workers.accelerator}, {cluster.workers.cpus} CPUs each"),
    ]


def describe_prepare(job: PrepareSpec, cluster: ClusterSpec) -> list[tuple[str, str]]:
    """The same for a job that looks at data ahead of training."""
    concepts = job.concepts
    most = "" if concepts.max_concepts is None else f", at most {concepts.max_concepts:,}"
    kept = "kept beside each shard" if job.store_labels else "not kept: captions are read twice"
    return [
        ("data", "\n".join(join_uri(cluster.storage.data, source.uri) for source in job.data.sources)),
        ("captions", ", ".join(job.data.drawn_fields)),
        ("concepts", f"mode {concepts.mode}; in at least {concepts.min_count:,} captions{most}"),
        ("labels", kept),
    ]


def _describe_data(plan: Plan) -> str:
    data = plan.data
    if not isinstance(data.spec, ShardsSpec):
        return f"{data.num_samples:,} synthetic samples an epoch, made on the fly"
    total = sum(source.weight for source in data.sources)
    lines = []
    for source in data.sources:
        facts = [f"{source.weight / total:.1%}"] * (len(data.sources) > 1)
        facts += ["with replacement"] * source.with_replacement
        lines.append(_describe_shards(f"train ({', '.join(facts)})" if facts else "train", source.shards))
    if data.heldout is not None:
        lines.append(_describe_shards("held out", data.heldout))
    for annotation in data.annotations:
        shards = [facts for facts in (*(source.shards for source in data.sources), data.heldout) if facts is not None]
        covered = sum(facts.annotations[annotation.name].num_shards for facts in shards)
        lines.append(
            f"annotation {annotation.name} ({', '.join(annotation.columns)}) of {covered:,} of "
            f"{_count(sum(facts.num_shards for facts in shards), 'shard')}; a sample without it: {annotation.missing}"
        )
    if data.spec.captions_per_image > 1:
        lines.append(f"{data.spec.captions_per_image} captions of each image are its positives")
    lines.append(f"images decoded {data.spec.decode} by {data.decoder}; {_describe_crop(data.spec.augmentation)}")
    if changes := _describe_augmentation(data.spec.augmentation):
        lines.append(f"augmented on the training device: {changes}")
    return "\n".join(lines)


def _describe_crop(augmentation: AugmentationSpec) -> str:
    area, ratio = ((f"{low:.3g}", f"{high:.3g}") for low, high in (augmentation.crop_scale, augmentation.crop_ratio))
    mirrored = ", half of them mirrored" if augmentation.flip else ""
    return f"crops keep {' to '.join(area)} of the area, {' to '.join(ratio)} times as wide as high{mirrored}"


def _describe_augmentation(augmentation: AugmentationSpec) -> str:
    changes = []
    if jitter := augmentation.color_jitter:
        changes.append(f"color jitter of {jitter.probability:.0%}")
    if augmentation.grayscale:
        changes.append(f"{augmentation.grayscale:.0%} without color")
    if operations := augmentation.rand_augment:
        changes.append(f"{_count(operations.num_operations, 'operation')} of magnitude {operations.magnitude:g}")
    return ", ".join(changes)


def _describe_shards(role: str, shards: ShardsFacts) -> str:
    size = f"{shards.num_samples:,} samples in {_count(shards.num_shards, 'shard')}, {_bytes(shards.bytes)}"
    if shards.num_counted:
        size += f", {_count(shards.num_counted, 'shard')} counted by _stats.json (a run reads their headers first)"
    if shards.num_kept is not None:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in shards.filtered.items())
        size += f", {shards.num_kept:,} of them selected (filtered: {reasons})"
    return f"{role}: {size}; digest {shards.digest[:16]}; {shards.uri}"


def _describe_model(plan: Plan) -> str:
    size, model = PRESETS[plan.model.preset], plan.model
    patches = (model.image_size // size.patch_size) ** 2
    lines = [
        f"vision: {size.vision.num_layers} layers, width {size.vision.width}, {model.image_size} pixels "
        f"in {patches} patches of {size.patch_size}",
        *_describe_resolutions(plan),
    ]
    if model.patch_dropout:
        lines.append(f"{model.patch_dropout:.0%} of the patches are left out in training")
    if model.compile or model.attention != "sdpa":
        lines.append(f"attention {model.attention}{', layers compiled by torch.compile' if model.compile else ''}")
    if plan.objective.reads_concepts:
        concepts = f"{model.vocabulary.size:,} concepts" if model.vocabulary else "concepts counted when the job runs"
        lines.append(concepts)
    if isinstance(plan.objective, CatlipSpec):
        spec = plan.objective
        lines.append(f"labels: {spec.mode}, {spec.labels}; without any: {spec.no_concept}")
    if not plan.objective.reads_captions:
        return "\n".join(lines)
    lines.append(f"text: {size.text.num_layers} layers, width {size.text.width}, {model.context} tokens")
    if model.tokenizer is None:
        lines.append(f"tokenizer: trained when the job runs, at most {model.trained_tokenizer_size:,} tokens")
    else:
        lines.append(f"tokenizer: {model.tokenizer.vocabulary_size:,} tokens; {model.tokenizer.uri}")
    return "\n".join(lines)


def _describe_start(plan: Plan) -> str:
    init, start = plan.init, plan.start
    if start is not None:
        return (
            f"weights, moments and place in the order of {start.run} at step {start.step:,}; of the "
            f"{_count(plan.steps, 'step')} of the budget, {plan.own_steps:,} are trained here"
        )
    if init is None:
        return f"random weights of seed {plan.seed.model}"
    return f"{', '.join(init.towers) if init.towers else 'all towers'} from {init.from_}"


def _describe_resolutions(plan: Plan) -> Iterator[str]:
    """What each phase of other image sizes costs; nothing where there is none."""
    preset = PRESETS[plan.model.preset]
    for phase in plan.phases if plan.model.image_sizes.phases else ():
        pixels = [size for size, _ in phase.sizes]
        flops = [vision_flops(preset, one, projection=False) / 1e9 for one in (min(pixels), max(pixels))]
        yield (
            f"steps {phase.start:,} to {phase.stop:,}: {', '.join(map(str, pixels))} pixels, {flops[0]:,.3g}"
            f"{f' to {flops[1]:,.3g}' if len(pixels) > 1 else ''} GFLOP forward an image"
        )


def _describe_batch(plan: Plan) -> str:
    batch = plan.batch
    unit, sizes = plan.workers.count * batch.micro_size, [size for phase in plan.phases for _, size in phase.sizes]
    least, most = min(sizes), max(sizes)
    few, some = (f"{least // unit:,} to ", f"{least:,} to ") if least < most else ("", "")
    lines = [
        f"{_count(plan.workers.count, 'worker')} x {few}{_count(most // unit, 'micro batch')} x {batch.micro_size:,} "
        f"= {some}{most:,} samples a step; {_count(plan.own_steps, 'step')} = {plan.samples:,} samples "
        f"= {plan.epochs:,.1f} epochs"
    ]
    for phase in plan.phases if batch.phases else ():
        drawn = ", ".join(f"{size:,} of {pixels} pixels" for pixels, size in phase.sizes)
        lines.append(f"steps {phase.start:,} to {phase.stop:,}: {drawn}; {phase.samples:,} samples")
    if most > unit and plan.objective.contrastive:
        where = " in steps of several" if least == unit else ""
        lines.append(
            f"towers run forward twice{where}: all captions are negatives, so features of all micro batches come first"
        )
    return "\n".join(lines)


def _describe_workers(plan: Plan) -> str:
    workers, machine = plan.workers, plan.machine
    return (
        f"{_count(machine.num_cpus, 'logical CPU')}: {_count(workers.count, 'worker')} x {workers.cpus}, "
        f"{plan.stream.ingest_cpus} to read and decode; torch uses {_count(workers.threads, 'thread')} per worker "
        f"of {_count(machine.num_cores, 'physical core')}\n"
        f"{workers.accelerator}, {plan.precision}, ZeRO stage {plan.zero_stage}"
    )


def _describe_stream(plan: Plan) -> str:
    stream = plan.stream
    task_bytes = stream.blocks_per_task * plan.batch.micro_size * mean_stored_bytes(plan.data.sources)
    held = f", {_bytes(int(task_bytes))} as stored" if plan.data.sources else ""
    lines = [
        f"blocks of {plan.batch.micro_size:,} rows, {_bytes(stream.block_bytes)}; up to "
        f"{_count(stream.blocks_per_task, 'block')} a read task{held}; "
        f"{stream.window:,} samples mixed with one another",
        f"object store: {_bytes(stream.object_store_bytes)} of blocks on their way at most",
    ]
    if (times := reads_per_chunk(plan)) > _MANY_READS:
        lines.append(
            f"each chunk is read about {times:.1f} times, since several tasks of a node make the batches of a window; "
            f"a data.shuffle_window of {plan.batch.global_size:,} would have it read once, storage.cache from disk"
        )
    if stream.ingest_labels:
        labels = ", ".join(f"{key}={value}" for key, value in stream.ingest_labels.items())
        image_bytes = 3 * plan.model.image_size**2
        lines.append(
            f"decoded on nodes with {labels}: {image_bytes / 1e3:,.1f} kB an image cross the network, "
            f"{image_bytes * _DEVICE_IMAGES_PER_S / 1e6:,.0f} MB/s for a device that takes "
            f"{_DEVICE_IMAGES_PER_S:,} images/s"
        )
    if stream.cache is not None:
        lines.append(f"cache: {_bytes(stream.cache.max_bytes)} in {stream.cache.folder} of each node")
    return "\n".join(lines)


def _describe_schedule(plan: Plan) -> str:
    schedule, optimizer, steps_of = plan.schedule, plan.optimizer, plan.batch.steps_of
    text = (
        f"AdamW, learning rate {optimizer.learning_rate:g}, {schedule.kind}; "
        f"warm-up {_count(steps_of(schedule.warmup_fraction, plan.steps), 'step')}"
    )
    if schedule.kind == "wsd":
        decay = plan.steps - steps_of(1 - schedule.decay_fraction, plan.steps)
        text += f"; decay over the last {_count(decay, 'step')}"
    if schedule.kind != "constant":
        text += f"; ends at {schedule.final_fraction * optimizer.learning_rate:g}"
    text += f"; EMA {plan.ema.decay:g}" if plan.ema else ""
    return "\n".join([text, *_describe_treatments(plan)])


def _describe_treatments(plan: Plan) -> Iterator[str]:
    """What is not trained like the rest, and what is watched."""
    optimizer, guard = plan.optimizer, plan.optimizer.guard
    for tower, decay in optimizer.layer_decay.items():
        yield f"{tower}: the learning rate falls by {decay:g} with each layer from the top down"
    for tower, freeze in optimizer.freeze.items():
        what = "whole" if freeze.layers is None else f"embeddings and {_count(freeze.layers, 'layer')}"
        until = freeze.until_fraction
        steps = "" if until is None else f" for {_count(plan.batch.steps_of(until, plan.steps), 'step')}"
        yield f"{tower}: {what} frozen{steps}"
    watched = [("loss", guard.loss_factor), ("gradient norm", guard.norm_factor)]
    for name, factor in watched:
        if factor is not None:
            act = "left out" if guard.on_spike == "skip" else "warned of"
            yield f"steps with a {name} of more than {factor:g} medians of {guard.window} steps are {act}"


def _describe_checkpoints(checkpoint: CheckpointSpec) -> str:
    when = []
    if checkpoint.every_steps is not None:
        when.append(f"every {_count(checkpoint.every_steps, 'step')}")
    if checkpoint.every_minutes is not None:
        when.append(f"every {checkpoint.every_minutes:g} minutes")
    steps = f" after {', '.join(f'{step:,}' for step in checkpoint.keep_steps)} steps"
    kept = [f"the newest {checkpoint.keep_last}"]
    kept += ["the one with the least held-out loss"] * checkpoint.keep_best
    kept += [f"those{steps}"] * bool(checkpoint.keep_steps)
    when += [steps.strip()] * bool(checkpoint.keep_steps)
    return f"{', '.join([*when, 'at the end'])}; {' and '.join(kept)} are kept"


def _describe_evaluation(plan: Plan) -> str:
    if not plan.evaluation_uris:
        return "none"
    every = plan.evaluation.every_steps
    when = f"every {_count(every, 'step')} and at the end" if every else "at the end"
    weights = {"raw": "trained", "ema": "averaged", "both": "trained and averaged"}[plan.evaluation.weights]
    of = f"{weights if plan.ema else 'trained'} weights"
    return f"{', '.join(plan.evaluation.probes)} of the {of} {when} on {', '.join(plan.evaluation_uris)}"


def _describe_places(plan: Plan) -> str:
    return f"run folder: {plan.run_uri}\nMLflow: {plan.tracking.uri}, experiment {plan.tracking.experiment}"


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _bytes(number: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"
