"""What ``orchestrator plan`` says: the arithmetic aloud, for every form that a plan can take."""

from collections.abc import Callable
from typing import Any

from orchestrator.data.shard import CHUNK_SAMPLES
from orchestrator.spec import stream_reads
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.describe import describe_evaluate, describe_plan
from orchestrator.spec.facts import Facts, FinderFacts, TokenizerFacts, VocabularyFacts
from orchestrator.spec.job import EvaluateSpec
from orchestrator.spec.plan import Plan

Resolve = Callable[..., Plan]


def test_the_arithmetic_is_one_sentence(resolve: Resolve) -> None:
    said = dict(describe_plan(resolve()))
    assert said["batch"] == (
        "2 workers x 1 micro batch x 128 = 256 samples a step; 391 steps = 100,096 samples = 25.0 epochs"
    )
    assert said["workers"].splitlines()[0] == (
        "4 logical CPUs: 2 workers x 1, 2 to read and decode; torch uses 1 thread per worker of 2 physical cores"
    )
    assert said["data"].splitlines()[0] == (
        "train: 4,000 samples in 16 shards, 8.6 MiB; digest 0123456789abcdef; file:///data/scenes/train"
    )
    assert said["schedule"] == "AdamW, learning rate 0.001, cosine; warm-up 20 steps; ends at 0"
    assert "sqlite:////runs/mlflow.db" in said["places"]


def test_what_micro_batches_cost_a_contrastive_objective_is_said(resolve: Resolve) -> None:
    batch = {"global_size": 256, "micro_size": 32}
    said = {
        name: dict(describe_plan(resolve({"objective": {"name": name}, "batch": batch})))
        for name in ("siglip", "catlip")
    }
    assert "towers run forward twice" in said["siglip"]["batch"]
    assert "twice" not in said["catlip"]["batch"]


def test_several_captions_of_an_image_are_said_and_take_their_room(resolve: Resolve) -> None:
    data = {"kind": "shards", "train": "x", "caption_fields": ("a", "b"), "captions_per_image": 2}
    one, two = resolve(), resolve({"data": data})
    assert "2 captions of each image are its positives" in dict(describe_plan(two))["data"]
    assert two.stream.block_bytes - one.stream.block_bytes == 128 * 4 * 77
    assert two.identity["data.captions_per_image"] == 2


def test_what_a_run_starts_from_and_what_is_kept_for_others_is_said(resolve: Resolve) -> None:
    branch = resolve({"start": {"run": "trunk", "step": 300}, "checkpoint": {"keep_steps": [310, 391]}})
    said = dict(describe_plan(branch))
    assert said["start"] == (
        "weights, moments and place in the order of file:///runs/trunk at step 300; of the 391 steps of the budget, "
        "91 are trained here"
    )
    assert "91 steps = 23,296 samples" in said["batch"]
    assert said["checkpoints"] == (
        "every 30 minutes, after 310, 391 steps, at the end; the newest 2 and the one with the least held-out loss "
        "and those after 310, 391 steps are kept"
    )


def test_what_is_not_known_yet_is_said(resolve: Resolve) -> None:
    assert "trained when the job runs, at most 4,096 tokens" in dict(describe_plan(resolve()))["model"]
    catlip = dict(describe_plan(resolve({"objective": {"name": "catlip"}})))
    assert "concepts counted when the job runs" in catlip["model"]
    assert "tokenizer" not in catlip["model"]


def test_what_is_known_is_said_with_its_size(resolve: Resolve, facts: Facts) -> None:
    finder = FinderFacts(mode="corenet", noun_table=None, tagger=None)
    tokenizer = TokenizerFacts(uri="file:///t", digest="d", vocabulary_size=4096, begin_id=0, end_id=1, pad_id=2)
    facts = facts.model_copy(
        update={"tokenizer": tokenizer, "vocabulary": VocabularyFacts(uri="v", digest="d", size=120, finder=finder)}
    )
    assert "tokenizer: 4,096 tokens; file:///t" in dict(describe_plan(resolve(facts=facts)))["model"]
    assert "120 concepts" in dict(describe_plan(resolve({"objective": {"name": "catlip"}}, facts=facts)))["model"]


def test_options_of_schedule_checkpoints_and_evaluation_are_said(resolve: Resolve) -> None:
    job = {
        "schedule": {"kind": "wsd", "warmup_fraction": 0.1, "decay_fraction": 0.3, "final_fraction": 0.1},
        "ema": {"decay": 0.99},
        "checkpoint": {"every_steps": 100, "every_minutes": None, "keep_best": False},
        "evaluation": {"sets": ["scenes/eval"], "every_steps": 50},
        "data": {"kind": "synthetic", "num_samples": 5000},
    }
    said = dict(describe_plan(resolve(job)))
    assert said["schedule"] == (
        "AdamW, learning rate 0.001, wsd; warm-up 39 steps; decay over the last 117 steps; ends at 0.0001; EMA 0.99"
    )
    assert said["checkpoints"] == "every 100 steps, at the end; the newest 2 are kept"
    assert said["evaluation"] == (
        "zero_shot, linear_probe, nearest_neighbours, retrieval of the trained and averaged weights every 50 steps and "
        "at the end on file:///data/scenes/eval"
    )
    assert said["data"] == "5,000 synthetic samples an epoch, made on the fly"


def test_what_changes_training_is_said_with_its_price(resolve: Resolve) -> None:
    phases = [{"until_fraction": 0.5, "image_sizes": [32]}, {"until_fraction": 0.75, "image_sizes": [48, 64]}]
    augmentation = {"color_jitter": {}, "grayscale": 0.2, "rand_augment": {}}
    guard = {"norm_factor": 10, "on_spike": "warn"}
    job = {
        "budget": {"steps": 100},
        "data": {"kind": "shards", "train": "scenes/train", "augmentation": augmentation},
        "model": {"preset": "vit_tiny_64", "resolutions": phases, "patch_dropout": 0.5, "compile": True},
        "optimizer": {
            "learning_rate": 1e-3,
            "layer_decay": {"vision": 0.8},
            "freeze": {"vision": {"layers": 2}, "text": {"until_fraction": 0.1}},
            "guard": guard,
        },
    }
    said = dict(describe_plan(resolve(job)))
    assert said["model"].splitlines()[1:6] == [
        "steps 0 to 50: 32 pixels, 0.0281 GFLOP forward an image",
        "steps 50 to 75: 48, 64 pixels, 0.0628 to 0.114 GFLOP forward an image",
        "steps 75 to 100: 64 pixels, 0.114 GFLOP forward an image",
        "50% of the patches are left out in training",
        "attention sdpa, layers compiled by torch.compile",
    ]
    assert said["schedule"].splitlines()[1:] == [
        "vision: the learning rate falls by 0.8 with each layer from the top down",
        "vision: embeddings and 2 layers frozen",
        "text: whole frozen for 10 steps",
        "steps with a gradient norm of more than 10 medians of 100 steps are warned of",
    ]
    assert said["data"].splitlines()[-1] == (
        "augmented on the training device: color jitter of 80%, 20% without color, 2 operations of magnitude 9"
    )


def test_an_evaluate_job_says_whose_checkpoint_it_judges(cluster_document: dict[str, Any]) -> None:
    job = EvaluateSpec.model_validate(
        {"kind": "evaluate", "name": "again", "run": "small", "evaluation": {"sets": ["scenes/eval"]}}
    )
    said = dict(describe_evaluate(job, ClusterSpec.model_validate(cluster_document)))
    assert said["run"] == "small: its last checkpoint; file:///runs/small"
    assert said["evaluation"] == "zero_shot, linear_probe, nearest_neighbours, retrieval on file:///data/scenes/eval"


def test_what_a_stream_costs_a_bucket_and_the_network_is_said(resolve: Resolve, facts: Facts) -> None:
    assert stream_reads.CHUNK_SAMPLES == CHUNK_SAMPLES
    job = {"batch": {"global_size": 64}, "data": {"kind": "shards", "train": "scenes/train", "shuffle_window": 2048}}
    place = {"ray": {"ingest_labels": {"subcluster": "data"}}}
    place["storage"] = {"data": "s3://b", "runs": "file:///r", "cache": {"folder": "/disk", "max_bytes": 2**30}}
    said = dict(describe_plan(resolve(job, place)))["stream"]
    assert "each chunk" not in said  # one task makes the window
    assert "12.3 kB an image cross the network, 55 MB/s" in said
    assert "cache: 1.0 GiB in /disk of each node" in said
    deep = {**job, "data": {**job["data"], "shuffle_window": 16384}}
    large = facts.train[0].model_copy(update={"num_samples": 100_000})
    said = dict(describe_plan(resolve(deep, facts=facts.model_copy(update={"train": (large,)}))))["stream"]
    assert "each chunk is read about 8.0 times" in said
    assert "a data.shuffle_window of 64 would have it read once" in said
