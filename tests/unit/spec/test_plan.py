"""The arithmetic of a Plan, and what it refuses before anything starts."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import PlanError
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.facts import Facts, MachineFacts
from orchestrator.spec.plan import Plan, load_plan
from orchestrator.spec.plan_differences import compare_identities, compare_plans
from orchestrator.spec.resolve import resolve_tracking_uri

CATLIP = {"name": "catlip"}
SYNTHETIC = {"kind": "synthetic", "num_samples": 1000}

Resolve = Callable[..., Plan]


def test_batches_steps_and_threads_follow_from_job_and_cluster(resolve: Resolve) -> None:
    plan = resolve()
    assert plan.batch.model_dump() == {
        "global_size": 256,
        "phases": (),
        "seed": 0,
        "worker_size": 128,
        "micro_size": 128,
        "num_micro": 1,
    }
    assert (plan.steps, plan.samples, plan.epochs) == (391, 100_096, 25.024)
    assert (plan.workers.count, plan.workers.threads, plan.stream.ingest_cpus) == (2, 1, 2)
    assert plan.run_uri == "file:///runs/small"
    assert plan.tracking.uri == "sqlite:////runs/mlflow.db"


@pytest.mark.parametrize("objective", ["clip", "siglip", "catlip"])
def test_micro_batches_tile_the_worker_batch(resolve: Resolve, objective: str) -> None:
    batch = resolve({"objective": {"name": objective}, "batch": {"global_size": 256, "micro_size": 32}}).batch
    assert (batch.worker_size, batch.micro_size, batch.num_micro) == (128, 32, 4)


@pytest.mark.parametrize("budget", [{"steps": 391}, {"samples": 100_000}, {"samples": 100_096}, {"epochs": 25.0}])
def test_every_form_of_budget_rounds_up_to_whole_steps(resolve: Resolve, budget: dict[str, Any]) -> None:
    assert resolve({"budget": budget}).steps == 391


def test_a_run_that_starts_from_another_trains_the_rest_of_its_budget(resolve: Resolve) -> None:
    plan = resolve({"start": {"run": "trunk", "step": 300}})
    assert (plan.steps, plan.first_step, plan.own_steps, plan.samples) == (391, 300, 91, 91 * 256)
    assert plan.start is not None
    assert plan.start.run == "file:///runs/trunk"
    assert compare_identities(plan.identity, resolve().identity) == [
        "start: None -> {'run': 'file:///runs/trunk', 'step': 300}"
    ]
    assert load_plan(plan.model_dump_json(), "here") == plan
    with pytest.raises(ValueError, match="both start and init are given"):
        resolve({"start": {"run": "trunk", "step": 300}, "init": {"from": "other"}})


@pytest.mark.parametrize(("window", "resolved"), [(2048, 2048), (2049, 2304), (256, 256), (100, 256), (1, 256)])
def test_windows_tile_global_batches(resolve: Resolve, window: int, resolved: int) -> None:
    plan = resolve({"data": {"kind": "shards", "train": "scenes/train", "shuffle_window": window}})
    assert plan.stream.window == resolved
    assert max(256, resolved) % min(256, resolved) == 0


@pytest.mark.parametrize(("num_samples", "resolved"), [(4000, 2048), (1000, 768), (300, 256)])
def test_a_window_holds_no_sample_of_a_small_source_twice(
    resolve: Resolve, facts: Facts, num_samples: int, resolved: int
) -> None:
    small = facts.train[0].model_copy(update={"num_samples": num_samples})
    assert resolve(facts=facts.model_copy(update={"train": (small,)})).stream.window == resolved
    anew = {"data": {"kind": "shards", "train": [{"uri": "scenes/train", "with_replacement": True}]}}
    assert resolve(anew, facts=facts.model_copy(update={"train": (small,)})).stream.window == 2048


@pytest.mark.parametrize(
    ("job", "cluster", "said"),
    [
        ({"batch": {"global_size": 255}}, {}, ["255 does not divide by 2 workers", "use 254 or 256", "workers: 1"]),
        ({"batch": {"global_size": 1}}, {}, ["1 does not divide by 2 workers", "use 2, or workers: 1"]),
        (
            {"start": {"run": "trunk", "step": 391}},
            {},
            ["start.step is 391", "ends after 391 steps", "raise 'budget', or start earlier"],
        ),
        ({"checkpoint": {"keep_steps": [9, 392]}}, {}, ["keep_steps names step 392", "the run ends after 391"]),
        ({"workers": 3}, {}, ["workers is 3", "cluster 'laptop' offers 2"]),
        ({"batch": {"global_size": 4096}}, {}, ["batch.global_size is 4,096", "holds 4,000 samples"]),
        ({}, {"ray": {"num_cpus": 2}}, ["2 workers x 1 CPUs take all", "raise 'ray.num_cpus'"]),
        ({}, {"workers": {"cpus": 2}}, ["2 workers x 2 CPUs take all 4 logical CPUs", "read and decode"]),
        (
            {"objective": CATLIP, "batch": {"global_size": 256, "micro_size": 50}},
            {},
            ["50 does not divide the worker batch of 128", "nearest that does is 64"],
        ),
        ({"model": {"preset": "vit_tiny_64", "image_size": 60}}, {}, ["60", "8 pixel patches", "nearest that does is"]),
        (
            {"model": {"preset": "vit_tiny_64", "variant": "siglip"}},
            {},
            ["variant 'siglip' is of SigLIP's own towers", "objective clip trains CLIP's", "model.variant: clip"],
        ),
        *(
            (
                {"objective": CATLIP, **change},
                {},
                [f"{key} names the tower 'text', but objective catlip has 'vision' alone"],
            )
            for key, change in (
                ("optimizer.freeze", {"optimizer": {"learning_rate": 1e-3, "freeze": {"text": {}}}}),
                ("optimizer.layer_decay", {"optimizer": {"learning_rate": 1e-3, "layer_decay": {"text": 0.8}}}),
                ("init.towers", {"init": {"from": "other", "towers": ["text"]}}),
            )
        ),
        (
            {"objective": {"name": "siglip"}, "model": {"preset": "vit_tiny_64", "variant": "corenet"}},
            {},
            ["variant 'corenet' has a stem", "model.variant: siglip, or objective.towers: clip"],
        ),
        ({"precision": "fp16"}, {}, ["precision 'fp16' needs CUDA workers", "'bf16' or 'fp32'"]),
        (
            {"model": {"preset": "vit_b16"}, "batch": {"global_size": 1024}},
            {},
            ["micro batch of 512", "at most 64 MiB"],
        ),
        (
            {"model": {"preset": "vit_b16"}, "batch": {"global_size": 512}},
            {"ray": {"object_store_bytes": 512 * 2**20}},
            ["needs an object store of", "the cluster gives 512 MiB"],
        ),
        ({}, {"storage": {"runs": "s3://bucket/runs"}}, ["s3://bucket/runs", "set tracking.uri"]),
    ],
)
def test_what_cannot_run_together_is_refused_with_its_numbers(
    resolve: Resolve, facts: Facts, job: dict[str, Any], cluster: dict[str, Any], said: list[str]
) -> None:
    num_cpus = cluster.get("ray", {}).get("num_cpus") or 4
    machine = MachineFacts(num_cores=2, num_cpus=num_cpus, decoder="pillow 13.0.0")
    with pytest.raises(PlanError) as caught:
        resolve(job, cluster, facts.model_copy(update={"machine": machine}))
    assert all(part in str(caught.value) for part in said), caught.value


def test_shards_without_an_index_are_refused_with_the_command_that_makes_it(resolve: Resolve, facts: Facts) -> None:
    with pytest.raises(PlanError, match=r"data/scenes/train has no index yet.*orchestrator plan --prepare"):
        resolve(facts=Facts(machine=facts.machine))


def test_synthetic_data_needs_no_index(resolve: Resolve, facts: Facts) -> None:
    plan = resolve({"data": SYNTHETIC}, facts=Facts(machine=facts.machine))
    assert plan.data.num_samples == 1000
    assert plan.data.sources == ()


def test_other_worker_counts_that_a_resume_may_use_divide_the_batch(resolve: Resolve) -> None:
    assert resolve({"batch": {"global_size": 12}}).workers.admissible == (1, 2, 3, 4, 6, 12)


def test_other_workers_and_clusters_are_no_other_plan(resolve: Resolve) -> None:
    first = resolve()
    more = resolve({"workers": 1, "zero_stage": 3}, {"storage": {"data": "s3://b", "runs": "file:///r"}})
    assert first.identity == more.identity
    assert first.identity_digest == more.identity_digest


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": {"data": 1}}, "seed"),
        ({"batch": {"global_size": 128}}, "batch.global_size"),
        ({"objective": {"name": "clip", "max_scale": 50}}, "objective"),
        ({"optimizer": {"learning_rate": 2e-3}}, "optimizer"),
        ({"precision": "fp32"}, "precision"),
        ({"text": {"context": 32}}, "text.context"),
        ({"ema": {"decay": 0.99}}, "ema"),
        ({"data": {"kind": "shards", "train": "train", "decode": "exact"}}, "data.decode"),
    ],
)
def test_what_makes_another_plan_is_named(resolve: Resolve, change: dict[str, Any], key: str) -> None:
    differences = compare_identities(resolve(change).identity, resolve().identity)
    assert key in [line.split(":")[0] for line in differences]


def test_shards_that_were_written_again_with_the_same_sizes_make_another_plan(resolve: Resolve, facts: Facts) -> None:
    def plan_of(layout: str | None) -> Plan:
        return resolve(
            facts=facts.model_copy(update={"train": (facts.train[0].model_copy(update={"layout": layout}),)})
        )

    before, again, unknown = plan_of("aa"), plan_of("bb"), plan_of(None)
    assert before.identity == again.identity
    (line,) = compare_plans(again, before)
    assert line.startswith("file:///data/scenes/train: shards were written again since")
    assert compare_plans(unknown, before) == compare_plans(before, unknown) == compare_plans(before, before) == []


def test_a_plan_comes_back_from_its_json(resolve: Resolve) -> None:
    plan = resolve({"ema": {}, "objective": CATLIP, "data": SYNTHETIC})
    assert load_plan(plan.model_dump_json(), "plan.json") == plan
    assert isinstance(load_plan(plan.model_dump_json(), "plan.json"), Plan)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"kind": "pretrain", "name": 5}'])
def test_text_that_is_no_plan_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(PlanError, match="s3://bucket/runs/x/plan"):
        load_plan(text, "s3://bucket/runs/x/plan.json")


def test_the_embedded_database_lies_in_the_runs_folder_whatever_its_name(cluster_document: dict[str, Any]) -> None:
    cluster = ClusterSpec.model_validate(
        {**cluster_document, "storage": {"data": "file:///d", "runs": "file:///my%20runs/"}}
    )
    assert resolve_tracking_uri(cluster) == "sqlite:////my runs/mlflow.db"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"storage": {"data": "file:///d", "runs": "file:///a%3Fb"}}, "storage.runs: sqlite:////a?b/mlflow.db"),
        ({"storage": {"data": "file:///d", "runs": "file:///a%2520b"}}, "storage.runs: sqlite:////a%20b/mlflow.db"),
        ({"tracking": {"uri": "sqlite:////a?b/mlflow.db"}}, "tracking.uri: sqlite:////a?b/mlflow.db"),
        ({"tracking": {"uri": "sqlite:////a%20b/mlflow.db"}}, "tracking.uri: sqlite:////a%20b/mlflow.db"),
    ],
)
def test_a_database_that_would_be_looked_for_in_another_folder_is_refused(
    cluster_document: dict[str, Any], sections: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError) as caught:
        resolve_tracking_uri(ClusterSpec.model_validate({**cluster_document, **sections}))
    assert said in str(caught.value)


def test_a_database_in_a_folder_of_another_odd_name_is_taken(cluster_document: dict[str, Any]) -> None:
    storage = {"data": "file:///d", "runs": "file:///100%25%20of%23it"}
    cluster = ClusterSpec.model_validate({**cluster_document, "storage": storage})
    assert resolve_tracking_uri(cluster) == "sqlite:////100% of#it/mlflow.db"
