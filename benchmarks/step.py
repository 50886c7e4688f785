"""How fast one device takes a training step, and what share of its peak that is.

    python benchmarks/step.py --objective clip catlip --model vit_b16 --batch 512 [--compile] [--open-clip]

Random data that lies on the device already; torch and transformers only (no Ray, no DeepSpeed, no process group).
Each side has a process of its own and prints one line of JSON; a last line has the rates as ratios to the first side.
``peak_fraction`` is the arithmetic that the model needs (three forward passes: one forward, two for the gradients of
weights and activations) over what the device could do in the same time: the rate of a large matrix product measured
here; ``published_peak_fraction`` is over the data sheet's dense peak, where we know it. ``--open-clip`` adds
open_clip's own model, loss and step, where open_clip_torch is installed.
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch

from orchestrator.models.compilation import compile_layers
from orchestrator.models.towers import ModelBuild, TokenLayout
from orchestrator.objectives.objective import Objective
from orchestrator.objectives.table import build_objective
from orchestrator.spec.devices import DEVICES
from orchestrator.spec.flops import text_flops, vision_flops
from orchestrator.spec.installed import own_names
from orchestrator.spec.objective import CatlipSpec, ClipSpec, SiglipSpec
from orchestrator.spec.optimizer import OptimizerSpec, ScheduleSpec
from orchestrator.spec.presets import PRESETS
from orchestrator.training.step import BareEngine, Batch, to_device, train_step

CONTEXT, NUM_TOKENS, NUM_CONCEPTS = 77, 49408, 24320
"""Of CLIP's tokenizer and of CatLIP's largest vocabulary."""
BEGIN_ID, END_ID, PAD_ID = 49406, 49407, 0
OPEN_CLIP = "open_clip"
OPEN_CLIP_NAMES = {"vit_b32": "ViT-B-32", "vit_b16": "ViT-B-16", "vit_l14": "ViT-L-14"}


def main() -> None:
    arguments = parse_arguments()
    results = []
    for side in [*arguments.objective, *([OPEN_CLIP] if arguments.open_clip else [])]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            results.append(process.submit(measure, side, arguments).result())
        print(json.dumps(results[-1]), flush=True)
    first = results[0]
    ratios = {
        f"{one['objective']}_over_{first['objective']}": round(one["samples_per_s"] / first["samples_per_s"], 3)
        for one in results[1:]
    }
    if ratios:
        print(json.dumps(ratios))


def measure(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One objective, or open_clip, in a process that has done nothing else."""
    device = torch.device(arguments.device)
    take_step, forward_flops = (open_clip_step if side == OPEN_CLIP else own_step)(side, arguments, device)
    seconds = [time_step(take_step, device) for _ in range(arguments.warmup + arguments.steps)][arguments.warmup :]
    step_s = float(np.median(seconds))
    rate = 3 * forward_flops * arguments.batch / step_s
    measured = measured_peak_flops(device, arguments.precision)
    published = published_peak_flops(device, arguments.precision)
    return {
        "objective": side,
        "model": arguments.model,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "compile": arguments.compile,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "steps": arguments.steps,
        "step_s": round(step_s, 5),
        "step_s_range": [round(min(seconds), 5), round(max(seconds), 5)],
        "samples_per_s": round(arguments.batch / step_s, 2),
        "model_tflops_per_s": round(rate / 1e12, 4),
        "peak_tflops_per_s": round(measured / 1e12, 4),
        "peak_fraction": round(rate / measured, 4),
        "published_peak_fraction": round(rate / published, 4) if published else None,
        "memory_gib": round(peak_memory_bytes(device) / 2**30, 2),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=own_names(), nargs="+", default=["clip"])
    parser.add_argument("--model", choices=list(PRESETS), default="vit_b16")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="steps that are measured (the median counts)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile, for open_clip too")
    parser.add_argument(
        "--open-clip", action="store_true", help=f"also open_clip's step ({', '.join(OPEN_CLIP_NAMES)})"
    )
    return parser.parse_args()


def own_step(name: str, arguments: argparse.Namespace, device: torch.device) -> tuple[Callable[[], Any], int]:
    """A step of ours on the same batch again and again, and the operations of its forward pass for one sample."""
    objective, forward_flops = build(name, arguments.model, arguments.activation_checkpointing)
    objective.to(device)
    if arguments.compile:
        compile_layers(objective, arguments.device)
    num_steps = arguments.warmup + arguments.steps
    engine = BareEngine(objective, OptimizerSpec(learning_rate=1e-4), ScheduleSpec(), num_steps, arguments.precision)
    batch = random_batch(objective, PRESETS[arguments.model].image_size, arguments.batch, device)
    return lambda: train_step(engine, [batch]), forward_flops


def open_clip_step(name: str, arguments: argparse.Namespace, device: torch.device) -> tuple[Callable[[], Any], int]:
    """The same of open_clip: its model, its loss, AdamW, and autocast as its training does it."""
    import open_clip

    model = open_clip.create_model(OPEN_CLIP_NAMES[arguments.model], device=device).train()
    trained = torch.compile(model) if arguments.compile else model
    loss_of = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.2, fused=device.type == "cuda")
    size = PRESETS[arguments.model]
    image = torch.randn(arguments.batch, 3, size.image_size, size.image_size, device=device)
    text = torch.randint(1, BEGIN_ID, (arguments.batch, CONTEXT), device=device)
    text[:, 0], text[:, -1] = BEGIN_ID, END_ID

    def take_step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            loss_of(*trained(image, text)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))

    return take_step, vision_flops(size, size.image_size, projection=True) + text_flops(size, CONTEXT)


def build(name: str, preset: str, activation_checkpointing: bool) -> tuple[Objective, int]:
    """An objective and the operations of its forward pass for one sample."""
    size = PRESETS[preset]
    tokens = TokenLayout(NUM_TOKENS, CONTEXT, BEGIN_ID, END_ID, PAD_ID)
    model = ModelBuild(size, size.image_size, 0, tokens, activation_checkpointing)
    if name in ("clip", "siglip"):  # on the same towers, so that only the loss differs
        spec = ClipSpec(name="clip") if name == "clip" else SiglipSpec(name="siglip", towers="clip")
        flops = vision_flops(size, size.image_size, projection=True) + text_flops(size, CONTEXT)
        return build_objective(spec, model), flops
    flops = vision_flops(size, size.image_size, projection=False) + 2 * size.vision.width * NUM_CONCEPTS
    return build_objective(CatlipSpec(name="catlip"), model, np.full(NUM_CONCEPTS, 1e-3)), flops


def random_batch(objective: Objective, image_size: int, size: int, device: torch.device) -> Batch:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8)
    tokens = rng.integers(1, BEGIN_ID, (size, CONTEXT), dtype=np.int32)
    tokens[:, 0], tokens[:, -1] = BEGIN_ID, END_ID
    concepts = rng.integers(0, NUM_CONCEPTS, (size, 8), dtype=np.int32)
    return to_device({"image": image, "tokens": tokens, "concepts": concepts}, objective.columns, device)


def time_step(take_step: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    take_step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory_bytes(device: torch.device) -> int:
    """Of the device; on a CPU, of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_peak_flops(device: torch.device, precision: str) -> float:
    """Operations a second of large matrix products, the most that a model could reach."""
    # Many CPUs multiply bf16 slower than fp32, so the better of the two is what such a device can do.
    dtypes = {torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32}
    return max(measured_matmul_flops(device, dtype) for dtype in dtypes)


def published_peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second by the device's data sheet, where we know it."""
    if device.type != "cuda" or precision != "bf16":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    known = [device.tflops for kind, device in DEVICES.items() if kind.partition("-")[0] in words]
    return known[0] * 1e12 if known else None


def measured_matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Best of several large square matrix products."""
    width = 8192 if device.type == "cuda" else 768
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * width**3 / min(seconds)


if __name__ == "__main__":
    main()
