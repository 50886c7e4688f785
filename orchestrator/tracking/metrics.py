"""Every metric a run records: its name, its unit and what it means, in one table.

Names read ``<part>/<what>``: ``train/`` comes from optimizer steps, ``heldout/`` from the fixed held-out shards,
``eval/`` from probes, ``system/`` from the worker's machine. A part in angle brackets is filled in by the function
beside it. Values are plain floats; a name ends in its unit where it has one (``_s``, ``_bytes``, ``_per_s``,
``_fraction``). An objective returns short names (``logit_scale``); ``train_metric`` places them in the table.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One row of the table: a name (with ``<placeholders>``), its unit and its meaning."""

    name: str
    unit: str
    meaning: str


_rows: list[MetricRow] = []


def _metric(name: str, unit: str, meaning: str) -> str:
    _rows.append(MetricRow(name, unit, meaning))
    return name


STEPS = _metric("train/steps", "steps", "optimizer steps done since the run's first start")
SAMPLES_SEEN = _metric("train/samples_seen", "samples", "samples that entered an optimizer step")
SECONDS = _metric("train/seconds", "s", "time in the steps so far, waiting for data included, lost attempts not")
FLOPS = _metric(
    "train/flops", "operations", "of training on all samples so far: matrix products, without recomputation"
)
LOSS = _metric("train/loss", "nats", "the objective's loss on the global batch")
LEARNING_RATE = _metric("train/learning_rate", "1", "learning rate of the step")
STEP_S = _metric("train/step_s", "s", "wall time of one optimizer step, waiting for data included")
SAMPLES_PER_S = _metric("train/samples_per_s", "samples/s", "global batch over step_s")
DATA_WAIT_FRACTION = _metric("train/data_wait_fraction", "share", "part of step_s spent waiting for the next batch")
GRAD_NORM = _metric("train/grad_norm/global", "L2", "gradient norm over all parameters, before clipping")
_GRAD_NORM_OF = _metric("train/grad_norm/<tower>", "L2", "gradient norm of one tower, before clipping")
CLIPPED_STEP_FRACTION = _metric("train/clipped_step_fraction", "share", "steps since the last record that were clipped")
NONFINITE_STEPS = _metric(
    "train/nonfinite_steps", "steps", "steps so far whose loss or gradient was not finite; left out"
)
SPIKE_STEPS = _metric("train/spike_steps", "steps", "steps so far that the guard called a spike, left out or not")
MEMORY_BYTES = _metric(
    "train/memory_bytes", "bytes", "peak memory of the worker: device memory, on a CPU resident memory"
)
CHECKPOINT_S = _metric("train/checkpoint_s", "s", "how long the last checkpoint held up training")
_SKIPPED_SAMPLES = _metric("train/skipped_samples/<reason>", "samples", "samples skipped so far, by reason")
_LEDGER = _metric(
    "ledger/<dataset>/<count>", "samples", "what the last checkpoint's ledger says of a data set, over all epochs"
)
ATTEMPTS = _metric("run/attempts", "attempts", "starts of the workers since this command began, this one included")
_COMPARISON_MEAN = _metric(
    "comparison/<objective>/primary_mean", "share", "mean of a comparison's primary metric over the replicates so far"
)
HELDOUT_LOSS = _metric("heldout/loss", "nats", "the objective's loss on the fixed held-out shards")

LOGIT_SCALE = _metric("train/logit_scale", "1", "CLIP, SigLIP: factor on the similarities, exp of the temperature")
LOGIT_BIAS = _metric("train/logit_bias", "1", "SigLIP: what is added to every logit")
IMAGE_TO_TEXT_ACCURACY = _metric(
    "train/image_to_text_accuracy",
    "share",
    "CLIP, SigLIP: images whose own caption is the most similar of the global batch",
)
TEXT_TO_IMAGE_ACCURACY = _metric(
    "train/text_to_image_accuracy",
    "share",
    "CLIP, SigLIP: captions whose own image is the most similar of the global batch",
)
POSITIVE_SIMILARITY = _metric("train/positive_similarity", "cosine", "CLIP, SigLIP: mean similarity of matching pairs")
HARDEST_NEGATIVE_SIMILARITY = _metric(
    "train/hardest_negative_similarity", "cosine", "CLIP, SigLIP: mean over images of the most similar foreign caption"
)
TRUNCATED_CAPTION_FRACTION = _metric(
    "train/truncated_caption_fraction", "share", "CLIP, SigLIP: captions cut to the context length"
)
REPEATED_CAPTION_FRACTION = _metric(
    "train/repeated_caption_fraction", "share", "CLIP, SigLIP: captions that an earlier one of their image equals"
)
DUPLICATE_CAPTION_FRACTION = _metric(
    "train/duplicate_caption_fraction",
    "share",
    "CLIP, SigLIP: captions of the global batch, as tokens, that another image of it has, too",
)
LOSS_OVER_PRIOR = _metric(
    "train/loss_over_prior", "nats", "CatLIP: loss minus that of a model that knows only the concept frequencies"
)
POSITIVES_PER_IMAGE = _metric("train/positives_per_image", "concepts", "CatLIP: mean number of concepts of an image")
PRECISION_AT_5 = _metric("train/precision_at_5", "share", "CatLIP: right ones among the five most probable concepts")
LEFT_OUT_CONCEPTS_PER_IMAGE = _metric(
    "train/left_out_concepts_per_image",
    "concepts",
    "CatLIP: mean number of concepts beyond objective.max_concepts_per_image, which were left out",
)
ALL_ZERO_FRACTION = _metric("train/all_zero_fraction", "share", "CatLIP: images whose caption names no known concept")

# Means first: their names fit the rows of single scores too.
_metric(
    "eval/<set>/<probe>/<group>/mean_<score>", "share", "mean over targets that captions name (named), do not, or all"
)
_metric("eval_ema/<set>/<probe>/<group>/mean_<score>", "share", "the same with the averaged (EMA) weights")
_metric("eval/<set>/<probe>/<target>/<score>", "share", "a score of one probe (docs/evaluation.md); ranks count from 1")
_metric("eval/<set>/<probe>/<target>/<score>/low", "share", "low end of the score's 95 % interval")
_metric("eval/<set>/<probe>/<target>/<score>/high", "share", "high end of the score's 95 % interval")
_metric(
    "eval/<set>/<probe>/<target>/details/<name>", "number", "how the scores came about: chance, num_test, chosen_c, ..."
)
_metric("eval_ema/<set>/<probe>/<target>/<score>", "share", "the same with the EMA weights")
_metric("eval_ema/<set>/<probe>/<target>/<score>/low", "share", "the same with the EMA weights")
_metric("eval_ema/<set>/<probe>/<target>/<score>/high", "share", "the same with the EMA weights")
_metric("eval_ema/<set>/<probe>/<target>/details/<name>", "number", "the same with the EMA weights")

CPU_FRACTION = _metric("system/cpu_fraction", "share", "busy share of all logical CPUs of the worker's machine")
MEMORY_USED_BYTES = _metric("system/memory_used_bytes", "bytes", "memory in use on the worker's machine")
PROCESS_MEMORY_BYTES = _metric("system/process_memory_bytes", "bytes", "resident memory of the worker process")
OBJECT_STORE_BYTES = _metric(
    "system/object_store_bytes",
    "bytes",
    "most that was in use in Ray's object stores, all nodes, since the last record",
)
_GPU_BUSY = _metric("system/gpu_<index>/busy_fraction", "share", "share of time in which the GPU ran a kernel")
_GPU_MEMORY = _metric("system/gpu_<index>/memory_used_bytes", "bytes", "memory in use on the GPU")

METRICS: tuple[MetricRow, ...] = tuple(_rows)

_PATTERNS = tuple(re.compile(re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", row.name)) for row in METRICS)


def is_metric(name: str) -> bool:
    """Whether the table has a row for ``name``."""
    return any(pattern.fullmatch(name) for pattern in _PATTERNS)


def find_metric(name: str) -> tuple[MetricRow, dict[str, str]] | None:
    """The row of ``name``, and what stands in it for each placeholder; None where the table has none."""
    for row, pattern in zip(METRICS, _PATTERNS, strict=True):
        if (found := pattern.fullmatch(name)) is not None:
            return row, found.groupdict()
    return None


def train_metric(short_name: str) -> str:
    """Full name of what an objective calls ``short_name``."""
    return f"train/{short_name}"


def grad_norm(tower: str) -> str:
    """Name of one tower's gradient norm."""
    return _GRAD_NORM_OF.replace("<tower>", tower)


def skipped_samples(reason: str) -> str:
    """Name of the count of samples skipped for ``reason``, one of ``columns.SKIP_REASONS``."""
    return _SKIPPED_SAMPLES.replace("<reason>", reason)


def ledger_count(dataset: str, count: str) -> str:
    """Name of one of the ledger's counts (``data/ledger_report.py``) of a data set."""
    return _LEDGER.replace("<dataset>", dataset).replace("<count>", count)


def comparison_mean(objective: str) -> str:
    """Name of the mean of one objective's replicates, in a comparison's own record."""
    return _COMPARISON_MEAN.replace("<objective>", objective)


def gpu_metrics(index: int, busy_fraction: float, memory_used_bytes: float) -> dict[str, float]:
    """One GPU's sample under its full names."""
    return {
        _GPU_BUSY.replace("<index>", str(index)): busy_fraction,
        _GPU_MEMORY.replace("<index>", str(index)): memory_used_bytes,
    }
