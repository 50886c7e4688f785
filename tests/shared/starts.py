"""Plans of jobs that start from weights that exist."""

from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts, VocabularyFacts
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.plan import Plan
from orchestrator.spec.resolve import resolve_plan


def plan_from(source: str, objective: str = "clip", vocabulary: VocabularyFacts | None = None, **keys: object) -> Plan:
    """Of a small job on synthetic data; ``keys``: of its ``init``."""
    job = {
        "kind": "pretrain",
        "name": "small",
        "objective": {"name": objective},
        "data": {"kind": "synthetic"},
        "model": {"preset": "vit_nano_32", "variant": "siglip" if objective == "siglip" else "clip"},
        "init": {"from": source, **keys},
        "batch": {"global_size": 8},
        "budget": {"steps": 1},
        "optimizer": {"learning_rate": 1e-3},
    }
    storage = {"data": "file:///data", "runs": "file:///runs"}
    cluster = {"name": "here", "workers": {"count": 1, "accelerator": "cpu"}, "storage": storage}
    machine = MachineFacts(num_cores=2, num_cpus=4, decoder="pillow")
    return resolve_plan(
        PretrainSpec.model_validate(job),
        ClusterSpec.model_validate(cluster),
        Facts(machine=machine, vocabulary=vocabulary),
    )
