"""Reading job and cluster files: what is wrong is said with file, path, value and the nearest valid choice."""

import os
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import JobFileError, StorageAccessError
from orchestrator.spec.job import PretrainSpec
from orchestrator.spec.load import absolute_uri, join_uri, load_cluster, load_job, local_path
from orchestrator.spec.yaml_file import MAX_FILE_BYTES
from orchestrator.storage.store import open_store

JOB = """\
kind: pretrain
name: small
objective:
  name: clip
data:
  kind: shards
  train: scenes/train
model:
  preset: vit_tiny_64
batch:
  global_size: 256
budget:
  epochs: 2
optimizer:
  learning_rate: 1.0e-3
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(JOB)
    return file


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(JobFileError) as caught:
        load_job(str(file), overrides)
    return str(caught.value)


def test_a_job_loads_with_its_defaults(job_file: Path) -> None:
    job = load_job(str(job_file))
    assert isinstance(job, PretrainSpec)
    assert (job.batch.global_size, job.text.context, job.zero_stage) == (256, 77, 1)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.gradient_clip=.inf", "finite number (given: inf); what the key takes: Greatest norm of the whole "),
        ("optimizer.gradient_clip=inf", "0 turns clipping off"),
        ("optimizer.eps=.inf", "optimizer.eps: Input should be a finite number"),
        ("optimizer.weight_decay=.nan", "optimizer.weight_decay: Input should be a finite number (given: nan)"),
        ("optimizer.guard.norm_factor=.inf", "none: norms are not watched"),
        ("optimizer.guard.loss_factor=.inf", "none: it is not watched"),
        ("checkpoint.every_minutes=.inf", "none: by steps only"),
        ("objective.max_scale=.inf", "objective.max_scale: Input should be a finite number"),
        ("budget={epochs: .inf}", "budget.epochs: Input should be a finite number"),
        ("data.train=[{uri: a, weight: .inf}]", "data.train[0].weight: Input should be a finite number"),
    ],
)
def test_infinity_is_refused_with_what_the_key_takes_instead(job_file: Path, override: str, said: str) -> None:
    assert said in refusal(job_file, override)


def test_a_list_that_is_too_short_is_refused_with_what_it_lacks(job_file: Path) -> None:
    assert "optimizer.betas[1]: this value is required and is not given" in refusal(job_file, "optimizer.betas=[0.9]")


def test_a_decay_too_short_to_be_divided_by_is_refused(job_file: Path) -> None:
    said = refusal(job_file, "schedule={kind: wsd, decay_fraction: 1.0e-17}")
    assert "schedule.decay_fraction: Input should be greater than or equal to 0.000001" in said


@pytest.mark.parametrize("name", ["''", "x" * 201])
def test_an_experiment_that_mlflow_would_refuse_for_ever_is_refused_at_once(job_file: Path, name: str) -> None:
    assert "experiment: String should have at" in refusal(job_file, f"experiment={name}")


def test_overrides_are_applied_in_order_and_read_as_yaml(job_file: Path) -> None:
    job = load_job(str(job_file), ["batch.global_size=64", "batch.global_size=128", "ema.decay=0.99", "workers=null"])
    assert isinstance(job, PretrainSpec)
    assert job.batch.global_size == 128
    assert job.ema is not None
    assert job.ema.decay == 0.99
    assert job.workers is None


@pytest.mark.parametrize(
    ("line", "misspelt", "said"),
    [
        ("batch:", "bacth:", ["bacth: unknown key 'bacth'; did you mean 'batch'?", "batch: this key is required"]),
        ("  global_size: 256", "  global_sise: 256", ["batch.global_sise: unknown key", "did you mean 'global_size'?"]),
        ("  train: scenes/train", "  trian: x", ["data.trian: unknown key 'trian'; did you mean 'train'?"]),
        ("  name: clip", "  name: clap", ["objective: 'clap' is none of clip, siglip, catlip; did you mean 'clip'?"]),
        ("  preset: vit_tiny_64", "  preset: vit_b_16", ["model.preset: 'vit_b_16'", "did you mean 'vit_b16'?"]),
        (
            "kind: pretrain",
            "kind: pretrian",
            ["'pretrian' is none of pretrain, evaluate, prepare, compare; did you mean 'pretrain'?"],
        ),
        ("kind: pretrain", "# no kind", ["kind: this key is required"]),
        ("  learning_rate: 1.0e-3", "  learning_rate: fast", ["optimizer.learning_rate:", "'fast'"]),
        ("  epochs: 2", "  epochs: 2\n  steps: 5", ["budget: wanted exactly one of", "['steps', 'epochs']"]),
        ("  epochs: 2", "  epochs: -1", ["budget.epochs:", "greater than 0", "-1"]),
        ("name: small", "name: Big Run", ["name:", "'Big Run'"]),
        ("  name: clip", "  name: clip\n  max_scale: 5", ["initial_scale 14.2857 lies above max_scale 5"]),
        ("  name: clip", "  name: siglip\n  max_scale: 5", ["initial_scale 10 lies above max_scale 5"]),
        ("  name: clip", "  name: clip\n  max_scale: 0.5", ["objective.max_scale:", "greater than or equal to 1"]),
        ("  epochs: 2", "  epochs: 2\ninit: {from: other, towers: []}", ["init.towers:", "at least 1 item"]),
    ],
)
def test_what_a_job_cannot_say_is_refused_with_file_path_and_choice(
    job_file: Path, line: str, misspelt: str, said: list[str]
) -> None:
    job_file.write_text(JOB.replace(line, misspelt, 1))
    message = refusal(job_file)
    assert all(part in message for part in [str(job_file), *said]), message


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            "[{uri: a, weight: 1}, {uri: b, wieght: 1}]",
            "data.train[1].wieght: unknown key 'wieght'; did you mean 'weight'",
        ),
        ("[{uri: a, weight: -1}]", "data.train[0].weight: Input should be greater than 0 (given: -1)"),
        ("[{weight: 1}]", "data.train[0].uri: this key is required and is not given"),
        ("[1]", "data.train[0]: Input should be keys and values (given: 1)"),
        ("5", "data.train: wanted a valid string or a list (given: 5)"),
        (
            "[{uri: a, select: {where: {width: {mini: 3}}}}]",
            "data.train[0].select.where.width.mini: unknown key 'mini'",
        ),
        (
            "[{uri: a, select: {where: {lang: {one_of: [[]]}}}}]",
            "data.train[0].select.where.lang.one_of[0]: wanted a valid string or",
        ),
    ],
)
def test_what_a_list_of_sources_cannot_say_is_told_in_one_line(job_file: Path, train: str, said: str) -> None:
    message = refusal(job_file, f"data.train={train}")
    assert said in message
    assert len(message.splitlines()) == 1


def test_all_errors_of_a_file_are_told_at_once(job_file: Path) -> None:
    message = refusal(job_file, "batch.global_size=0", "model.presett=x", "optimizer.learning_rate=-1")
    assert len(message.splitlines()) == 3


def test_a_key_that_is_given_twice_is_refused_with_both_lines(job_file: Path) -> None:
    job_file.write_text(JOB + "batch:\n  global_size: 512\n")
    message = refusal(job_file)
    assert f"{job_file}:16: key 'batch' is given twice (first on line 10)" in message


def test_a_duplicate_deep_in_the_file_is_found_too(job_file: Path) -> None:
    job_file.write_text(JOB.replace("  global_size: 256", "  global_size: 256\n  global_size: 512"))
    assert "key 'global_size' is given twice" in refusal(job_file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("- just\n- a list", "holds a list; wanted keys and values at the top"),
        ("# to be written", "holds nothing; wanted keys and values at the top"),
        ("pretrain", "holds a single value; wanted keys and values at the top"),
        ("", "holds nothing"),
        ("kind: pre\0train", "not valid YAML: unacceptable character"),
        ("kind: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("? [a, b]\n: c", "key ['a', 'b'] is not text"),
        ("on: 1", "key True is not text"),
        ("a: " + "[" * 5000, "not valid YAML"),
    ],
)
def test_text_that_is_no_job_is_refused_by_name(job_file: Path, text: str, said: str) -> None:
    job_file.write_text(text)
    message = refusal(job_file)
    assert said in message, message
    assert str(job_file) in message


def test_keys_that_are_merged_yield_to_those_beside_them(job_file: Path) -> None:
    merged = "optimizer:\n  <<: {learning_rate: 1.0, weight_decay: 0.3}\n"
    job_file.write_text(JOB.replace("optimizer:\n", merged))
    job = load_job(str(job_file))
    assert isinstance(job, PretrainSpec)
    assert (job.optimizer.learning_rate, job.optimizer.weight_decay) == (1e-3, 0.3)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + last] * 10)}]\n" for last, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS + "name: *j\n", ":6: alias '*e' stands for 211,111 characters; written out, the file would have more"),
        (f"a: &a {'x' * 400_000}\nb: [*a, *a]\n", ":2: alias '*a' stands for 400,001 characters"),
        ("name: &a [*a]\n", ":1: alias '*a' lies within what it stands for"),
        ("name: &a {b: {c: *a}}\n", ":1: alias '*a' lies within what it stands for"),
        ("name: *a\n", "not valid YAML: found undefined alias 'a'"),
    ],
)
def test_aliases_that_stand_for_more_than_a_file_may_hold_are_refused(job_file: Path, text: str, said: str) -> None:
    job_file.write_text(text)
    message = refusal(job_file)
    assert said in message, message[:500]
    assert str(job_file) in message


def test_an_alias_is_its_value(job_file: Path) -> None:
    job_file.write_text(JOB.replace("name: small", "name: &name small") + "experiment: *name\n")
    job = load_job(str(job_file))
    assert isinstance(job, PretrainSpec)
    assert (job.name, job.experiment) == ("small", "small")


def test_a_message_quotes_no_more_of_a_value_than_tells_it(job_file: Path) -> None:
    for value in ("[" + ", ".join(["x" * 50] * 1000) + "]", "x" * 10_000, "{a: {b: [c]}}"):
        message = refusal(job_file, f"budget.epochs={value}")
        assert "budget.epochs: " in message
        assert len(message) < 3_000
    assert "(given: {'a': {...}})" in message


def test_a_file_of_bytes_and_a_huge_file_are_refused(job_file: Path) -> None:
    job_file.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in refusal(job_file)
    job_file.write_text("#" * (MAX_FILE_BYTES + 1))
    assert "larger than" in refusal(job_file)


def test_a_missing_file_names_its_nearest_neighbour(job_file: Path) -> None:
    message = refusal(job_file.with_name("jobb.yaml"))
    assert f"did you mean {job_file}?" in message


def test_a_place_that_may_not_even_be_looked_at_is_refused_by_name(tmp_path: Path) -> None:
    closed = str(tmp_path / ("x" * 300))  # refused to root too, whom no rights stop
    with pytest.raises(
        JobFileError, match=r"job\.yaml: cannot be read \(File name too long\); check its path and rights"
    ):
        load_job(f"{closed}/job.yaml")
    with pytest.raises(JobFileError, match=r"cluster\.yaml: cannot be read \(File name too long\)"):
        load_cluster(closed)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch.global_size", "wanted the form a.b=value"),
        ("=5", "wanted the form a.b=value"),
        ("name.first=x", "'name' is 'small', which has no keys below it"),
        ("name=[", "--set name=[: not valid YAML"),
        ("name={a: 1, a: 2}", "key 'a' is given twice"),
        ("bacth.global_size=1", "did you mean 'batch'?"),
    ],
)
def test_a_wrong_override_is_refused_with_its_text(job_file: Path, override: str, said: str) -> None:
    assert said in refusal(job_file, override)


def test_a_cluster_loads_from_its_folder_with_absolute_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    text = "name: here\nworkers: {count: 2, accelerator: cpu}\nstorage: {data: data, runs: s3://bucket/runs}\n"
    (folder / "cluster.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in ("here", "here/cluster.yaml"):
        cluster = load_cluster(name)
        assert cluster.storage.data == (tmp_path / "data").as_uri()
        assert cluster.storage.runs == "s3://bucket/runs"


def test_a_wrong_cluster_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "laptop").mkdir()
    (tmp_path / "laptop" / "cluster.yaml").write_text("name: x\nworkers: {count: 1, accelerator: gpu}\nstorage: {}\n")
    with pytest.raises(JobFileError, match=r"cluster\.yaml: workers\.accelerator: 'gpu' is none of cpu, cuda"):
        load_cluster(str(tmp_path / "laptop"))
    with pytest.raises(JobFileError, match=f"did you mean {tmp_path}/laptop"):
        load_cluster(str(tmp_path / "labtop"))
    with pytest.raises(JobFileError, match=f"{tmp_path} has: laptop"):
        load_cluster(str(tmp_path / "moon"))


def test_locations_join_below_a_root_unless_they_stand_alone(tmp_path: Path) -> None:
    assert join_uri("s3://bucket/data/", "scenes/train/") == "s3://bucket/data/scenes/train"
    assert join_uri("s3://bucket/data", "s3://other/x") == "s3://other/x"
    assert join_uri("file:///data", "/elsewhere/x") == "file:///elsewhere/x"
    assert absolute_uri(str(tmp_path / "a b")) == (tmp_path / "a b").as_uri()


@pytest.mark.parametrize("given", ["http://minio:SECRET@host:9000", "http://minio:SE/CR@ET@host:9000", "SECRET@host"])
def test_credentials_in_an_endpoint_are_refused_and_not_repeated(tmp_path: Path, given: str) -> None:
    storage = f"{{data: d, runs: r, s3: {{endpoint: '{given}'}}}}"
    file = tmp_path / "cluster.yaml"
    file.write_text(f"name: here\nworkers: {{count: 1, accelerator: cpu}}\nstorage: {storage}\n")
    with pytest.raises(JobFileError, match=r"storage\.s3\.endpoint .*AWS_SECRET_ACCESS_KEY") as caught:
        load_cluster(str(tmp_path))
    assert not any(part in str(caught.value) for part in ("minio", "SECRET@", "SE/", "ET@"))
    file.write_text(file.read_text().replace(given, "http://host:9000"))
    assert load_cluster(str(tmp_path)).storage.s3.endpoint == "http://host:9000"


@pytest.mark.parametrize("name", ["set#2", "set?x", "a%20b", "100%", "with space", "ünï", "clip@100", "a:b"])
def test_a_folder_keeps_its_name_on_the_way_to_a_uri_and_back(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "train"
    root = absolute_uri(str(tmp_path))
    assert local_path(join_uri(root, f"{name}/train")) == folder
    assert local_path(join_uri(root, str(folder))) == folder
    assert local_path(join_uri(absolute_uri(str(tmp_path / name)), "train/")) == folder
    assert join_uri(root, folder.as_uri()) == folder.as_uri()
    assert join_uri("s3://bucket/data", name) == f"s3://bucket/data/{name}"


def test_a_folder_whose_name_is_no_utf8_keeps_it_in_a_uri() -> None:
    assert local_path(join_uri("file:///data", os.fsdecode(b"\xff#"))) == Path(os.fsdecode(b"/data/\xff#"))


def test_the_step_behind_a_run_stays_to_be_read() -> None:
    assert join_uri("file:///runs", "clip@100").endswith("/clip@100")
    assert absolute_uri("runs/clip@100").endswith("/clip@100")


@pytest.mark.parametrize(
    ("uri", "said"),
    [("file:///srv/set#2", "%23"), ("file:///srv/set?", "%3F"), ("file://host/a", "names the host 'host'")],
)
def test_a_file_uri_that_names_another_folder_than_it_seems_to_is_refused(uri: str, said: str) -> None:
    with pytest.raises(StorageAccessError, match=said) as caught:
        local_path(uri)
    assert uri in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "https://me:K7@MDENG@mlflow:5000",
        "https://K7MDENG@mlflow",
        "postgresql://me:K7MDENG@db/x",
        "http://m/?t=K7MDENG",
        "me:K7MDENG@mlflow",
    ],
)
def test_credentials_of_a_tracking_server_are_refused_before_anything_shows_them(tmp_path: Path, given: str) -> None:
    with pytest.raises(JobFileError, match=r"tracking\.uri .*MLFLOW_TRACKING_TOKEN") as caught:
        load_cluster(write_tracking(tmp_path, uri=given))
    assert "MDENG" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    ["s3://AKIA:K7MDENG@bucket/x", "s3://AKIA:K7/MDENG@bucket/x", "S3://AKIA:K7MDENG@bucket", " s3://AKIA:K7MDENG@b/x"],
)
def test_credentials_in_a_buckets_uri_are_refused_wherever_it_stands(
    tmp_path: Path, job_file: Path, given: str
) -> None:
    place = {"name": "here", "workers": {"count": 1, "accelerator": "cpu"}}
    for key in ("data", "runs"):
        storage = {"data": "d", "runs": "r", key: given}
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({**place, "storage": storage}))
        with pytest.raises(JobFileError, match=rf"storage\.{key} \(not shown\) carries credentials") as caught:
            load_cluster(str(tmp_path))
        assert "MDENG" not in str(caught.value)
    for overrides in (
        [f"data={{kind: shards, train: '{given}'}}"],
        [f"data={{kind: shards, train: [{{uri: ok}}, {{uri: '{given}'}}]}}"],
        ["data={kind: shards, train: ok}", f"data.heldout='{given}'"],
        ["data={kind: shards, train: ok}", f"text.tokenizer='{given}/t.json'"],
        [f"data={{kind: shards, train: ok, '{given}': 1}}"],
        [f"evaluation.sets=['{given}']"],
    ):
        with pytest.raises(JobFileError, match=r"\(not shown\) carries credentials") as caught:
            load_job(str(job_file), overrides)
        assert "MDENG" not in str(caught.value)
    with pytest.raises(StorageAccessError, match="carries credentials") as refused:
        open_store(given)
    assert "MDENG" not in str(refused.value)
    open_store("s3://arn:aws:s3:eu-central-1:123456789012:accesspoint/x")


@pytest.mark.parametrize(
    ("tracking", "said"),
    [
        ({"uri": "mlflow.internal:5000"}, "tracking.uri: wanted http://HOST:PORT"),
        ({"uri": "databricks"}, "tracking.uri: wanted http://HOST:PORT"),
        ({"metrics_address": "127.0.0.1:99999"}, "tracking.metrics_address: wanted a port from 1 to 65535"),
        ({"metrics_address": "127.0.0.1:0"}, "tracking.metrics_address: wanted a port from 1 to 65535"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused(tmp_path: Path, tracking: dict[str, str], said: str) -> None:
    with pytest.raises(JobFileError) as caught:
        load_cluster(write_tracking(tmp_path, **tracking))
    assert said in str(caught.value)


def write_tracking(folder: Path, **tracking: str) -> str:
    place = {"name": "here", "workers": {"count": 1, "accelerator": "cpu"}, "storage": {"data": "d", "runs": "r"}}
    (folder / "cluster.yaml").write_text(yaml.safe_dump({**place, "tracking": tracking}))
    return str(folder)
