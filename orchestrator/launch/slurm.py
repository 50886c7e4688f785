"""A Slurm batch script that starts Ray over the nodes of an allocation and drives the run from the first. Pure.

The script is a head of ``#SBATCH`` lines, what the site sets up, the variables of this job, and ``ray_on_slurm.sh``,
the same for every job. Its own variables are in lower case: sites have a ``SCRATCH`` of theirs.
"""

import shlex
from importlib.resources import files as package_files

from orchestrator.spec.cluster_slurm import SlurmSpec
from orchestrator.spec.launch_plan import LaunchPlan


def build_script(plan: LaunchPlan, launch: SlurmSpec, files: dict[str, str]) -> str:
    """The whole script, ready for ``sbatch``."""
    body = package_files("orchestrator.launch").joinpath("ray_on_slurm.sh").read_text(encoding="utf-8")
    options = "\n".join(f"#SBATCH --{option}" for option in _build_options(plan, launch))
    variables = "\n".join(f"{name}={shlex.quote(value)}" for name, value in _variables(plan, launch, files))
    plain = launch.network.variables | launch.environment
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in plain.items())
    setup = "".join(f"{line}\n" for line in launch.setup)
    return f"#!/usr/bin/env bash\n{options}\n\n{exports}{setup}\n{variables}\n\n{body}"


def _build_options(plan: LaunchPlan, launch: SlurmSpec) -> list[str]:
    group = launch.group
    named = {
        "partition": launch.partition,
        "account": launch.account,
        "qos": launch.qos,
        "constraint": launch.constraint,
    }
    return [
        f"job-name={plan.name}",
        f"nodes={plan.placement.num_worker_nodes}",
        "ntasks-per-node=1",
        f"cpus-per-task={group.cpus}",
        f"mem={group.memory.removesuffix('i')}",
        *([f"gpus-per-node={group.workers}"] if plan.uses_cuda else []),
        "exclusive",
        f"time={launch.time_limit}",
        f"signal=B:USR1@{launch.stop_before_s}",
        "requeue" if launch.requeue else "no-requeue",
        "open-mode=append",
        f"output={launch.work_folder}/%x-%j.log",
        *(f"{option}={value}" for option, value in named.items() if value is not None),
    ]


def _variables(plan: LaunchPlan, launch: SlurmSpec, files: dict[str, str]) -> list[tuple[str, str]]:
    return [
        ("run_name", plan.name),
        ("work_folder", launch.work_folder),
        ("scratch", launch.scratch),
        ("secrets_file", launch.secrets_file or ""),
        ("node_cpus", str(launch.group.cpus)),
        ("node_gpus", str(launch.group.workers if plan.uses_cuda else 0)),
        ("store_bytes", str(plan.placement.store_bytes(plan.stream_bytes))),
        ("start_deadline_s", str(launch.start_deadline_s)),
        ("requeue", "yes" if launch.requeue else "no"),
        ("job_yaml", files["job.yaml"]),
        ("cluster_yaml", files["cluster.yaml"]),
    ]
