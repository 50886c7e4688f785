"""Our CLIP and SigLIP losses against open_clip's own, loss and gradients, on ranks of both.

    python benchmarks/open_clip_losses.py [--peers .venv-peers/bin/python] [--ranks 3]

open_clip runs in the environment that `make bench-peers` makes, in float64; ours here, in float32. Both get the same
features, scale and bias; each rank has its own rows. Prints one line of JSON a loss, with the greatest difference of
the loss and of each gradient relative to its greatest value. Says so, and measures nothing, where open_clip is not
installed.
"""

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

WORKER_SIZE, WIDTH = 8, 16
LOSSES = {
    "clip": {"local_loss": True, "gather_with_grad": True},
    "siglip bidir": {"dist_impl": "bidir"},
    "siglip shift": {"dist_impl": "shift"},
    "siglip reduce": {"dist_impl": "reduce"},
    "siglip gather": {"dist_impl": "gather"},
}
"""open_clip's ways to each loss: CLIP's is the one of its four whose gradient is exact."""

Leaves = dict[str, torch.Tensor]


def main() -> None:
    arguments = parse_arguments()
    if arguments.side:
        run_rank(arguments.side, Path(arguments.out))
        return
    peers = Path(arguments.peers)
    if not peers.exists() or not has_open_clip(peers):
        print(json.dumps({"skipped": f"{peers} does not exist or has no open_clip; run: make bench-peers"}))
        return
    ours, theirs = (
        run_side(side, python, arguments.ranks)
        for side, python in (("ours", sys.executable), ("open_clip", str(peers)))
    )
    for name in LOSSES:
        difference = {
            key: max(relative_difference(a[name][key], b[name][key]) for a, b in zip(ours, theirs, strict=True))
            for key in theirs[0][name]
        }
        print(json.dumps({"form": name, "ranks": arguments.ranks, **difference}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=".venv-peers/bin/python", help="a Python that has open_clip_torch")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "open_clip"], help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


def has_open_clip(python: Path) -> bool:
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('open_clip') is None)"
    return subprocess.run([str(python), "-c", find], check=False).returncode == 0


def run_side(side: str, python: str, num_ranks: int) -> list[dict[str, dict[str, list[float]]]]:
    """What each rank found: loss name to loss and gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{rank}.json" for rank in range(num_ranks)]
        ranks = [
            subprocess.Popen(
                [python, "-W", "ignore::FutureWarning", __file__, "--side", side, "--out", str(out)],
                env={**common, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            )
            for rank, out in enumerate(outs)
        ]
        failed = [process.wait() for process in ranks]
        if any(failed):
            sys.exit(f"a rank of {side} failed")
        return [json.loads(out.read_text()) for out in outs]


def run_rank(side: str, out: Path) -> None:
    dist.init_process_group("gloo")
    found = {}
    for name, options in LOSSES.items():
        leaves = make_leaves(name, torch.float64 if side == "open_clip" else torch.float32)
        loss = open_clip_loss(name, options, leaves) if side == "open_clip" else our_loss(name, leaves)
        loss.backward()
        gradients = {f"gradient of {key}": leaf.grad for key, leaf in leaves.items()}
        for key in ("scale", "bias"):  # as data parallelism averages parameters
            if (gradient := gradients.get(f"gradient of {key}")) is not None:
                dist.all_reduce(gradient)
        found[name] = {key: value.flatten().tolist() for key, value in {"loss": loss, **gradients}.items()}
    out.write_text(json.dumps(found))
    dist.destroy_process_group()


def make_leaves(name: str, dtype: torch.dtype) -> Leaves:
    """This rank's features, and the scalars as the objectives keep them: t, and for SigLIP b."""
    rng = np.random.default_rng(dist.get_rank())
    rows = {key: rng.standard_normal((WORKER_SIZE, WIDTH)).astype(np.float32) for key in ("images", "captions")}
    leaves = {key: torch.from_numpy(row / np.linalg.norm(row, axis=1, keepdims=True)) for key, row in rows.items()}
    leaves["scale"] = torch.tensor([2.5])
    if name != "clip":
        leaves["bias"] = torch.tensor([-3.0])
    return {key: leaf.to(dtype).requires_grad_() for key, leaf in leaves.items()}


def open_clip_loss(name: str, options: dict[str, Any], leaves: Leaves) -> torch.Tensor:
    losses = load_open_clip_losses()
    scale = leaves["scale"].exp()
    ranks = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
    if name == "clip":
        return losses.ClipLoss(**options, **ranks)(leaves["images"], leaves["captions"], scale)
    return losses.SigLipLoss(**options, **ranks)(leaves["images"], leaves["captions"], scale, leaves["bias"])


def load_open_clip_losses() -> Any:
    """The one file, since the package imports torchvision, which may not load beside torch's CPU build."""
    package = importlib.util.find_spec("open_clip")
    file = Path(package.submodule_search_locations[0]) / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def our_loss(name: str, leaves: Leaves) -> torch.Tensor:
    from orchestrator.objectives.clip import ClipObjective
    from orchestrator.objectives.siglip import SiglipObjective
    from orchestrator.spec.objective import ClipSpec, SiglipSpec

    no_towers = torch.nn.Identity(), torch.nn.Identity()
    if name == "clip":
        objective = ClipObjective(ClipSpec(name="clip"), *no_towers)
    else:
        objective = SiglipObjective(SiglipSpec(name="siglip", chunk_size=3), *no_towers)
        objective.logit_bias = torch.nn.Parameter(leaves["bias"].detach())
        leaves["bias"] = objective.logit_bias
    objective.logit_scale = torch.nn.Parameter(leaves["scale"].detach())
    leaves["scale"] = objective.logit_scale
    flags = torch.zeros(WORKER_SIZE, 1, dtype=torch.bool)
    features = {"image_BD": leaves["images"], "text_BKD": leaves["captions"].unsqueeze(1)}
    loss, _ = objective.loss([{**features, "truncated_BK": flags, "repeated_BK": flags, "hash_BK": flags.long()}])
    return loss


def relative_difference(ours: list[float], theirs: list[float]) -> float:
    difference = np.abs(np.array(ours) - np.array(theirs)).max() / np.abs(theirs).max()
    return float(f"{difference:.2g}")


if __name__ == "__main__":
    main()
