"""How fast one device takes a training step, and what share of its peak that is.

    python benchmarks/step.py --objective clip --model vit_b16 --batch 512 [--device cuda] [--precision bf16]

Random data that lies on the device already; torch and transformers only (no Ray, no DeepSpeed, no process group).
Prints one line of JSON. ``peak_fraction`` is the arithmetic that the model needs (three forward passes: one forward,
two for the gradients of weights and activations) over what the device could do in the same time: its published dense
peak where we know it, else the rate of a large matrix product measured here.
"""

import argparse
import json
import time

import numpy as np
import torch

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


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    objective, forward_flops = build(arguments.objective, arguments.model, arguments.activation_checkpointing)
    objective.to(device)
    optimizer = OptimizerSpec(learning_rate=1e-4)
    num_steps = arguments.warmup + arguments.steps
    engine = BareEngine(objective, optimizer, ScheduleSpec(), num_steps, arguments.precision)
    batch = random_batch(objective, PRESETS[arguments.model].image_size, arguments.batch, device)
    seconds = [time_step(engine, batch, device) for _ in range(num_steps)][arguments.warmup :]

    step_s = float(np.median(seconds))
    rate = 3 * forward_flops * arguments.batch / step_s
    peak, source = peak_flops(device, arguments.precision)
    result = {
        "objective": arguments.objective,
        "model": arguments.model,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "steps": arguments.steps,
        "step_s": round(step_s, 5),
        "step_s_range": [round(min(seconds), 5), round(max(seconds), 5)],
        "samples_per_s": round(arguments.batch / step_s, 2),
        "model_tflops_per_s": round(rate / 1e12, 4),
        "peak_tflops_per_s": round(peak / 1e12, 4),
        "peak_source": source,
        "peak_fraction": round(rate / peak, 4),
        "memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None,
    }
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=own_names(), default="clip")
    parser.add_argument("--model", choices=list(PRESETS), default="vit_b16")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="steps that are measured (the median counts)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--activation-checkpointing", action="store_true")
    return parser.parse_args()


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


def time_step(engine: BareEngine, batch: Batch, device: torch.device) -> float:
    start = time.perf_counter()
    train_step(engine, [batch])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_flops(device: torch.device, precision: str) -> tuple[float, str]:
    """Operations a second that the device can do at most, and where the number is from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    words = name.replace("-", " ").split()
    known = [device.tflops for kind, device in DEVICES.items() if kind.partition("-")[0] in words]
    if precision == "bf16" and known:
        return known[0] * 1e12, "data sheet"
    # Many CPUs multiply bf16 slower than fp32, so the better of the two is what such a device can do.
    dtypes = {torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32}
    return max(measured_matmul_flops(device, dtype) for dtype in dtypes), "measured matmul"


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
