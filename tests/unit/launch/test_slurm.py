"""The script that starts Ray on Slurm's nodes, run by bash with stand-ins for Slurm's and Ray's own programs.

There is no Slurm where tests run. What is shown is the script's own part: the order of starts, the token, and what it
does with Slurm's warning and with the exit code of the run.
"""

import os
import signal
import stat
import subprocess
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import JobFileError
from orchestrator.launch.render import render_job
from orchestrator.spec.load import load_cluster, load_job

ROOT = Path(__file__).parents[3]
PROGRAMS = {
    "scontrol": 'if [ "$1" = show ]; then printf "%s\\nother\\n" "$(hostname)"; else echo "$*" >> "$LOG"; fi',
    "srun": 'echo "srun $*" >> "$LOG"; exec sleep 60',
    "ray": "exit 1",
    "getent": 'echo "10.0.0.1 STREAM"',
    # `python -c CODE`: the first call makes the token, later ones count nodes.
    "python": 'case "$2" in *secrets*) printf token ;; *) grep -c "^srun" "$LOG" ;; esac',
    "orchestrator": 'echo "token $(cat "$RAY_AUTH_TOKEN_PATH") $RAY_AUTH_MODE" >> "$LOG"; echo "$*" >> "$LOG"\n'
    'echo "masks $ORCHESTRATOR_SECRETS" >> "$LOG"\n'
    "trap 'exit 130' TERM\n[ \"$LASTS\" = no ] || for _ in $(seq 100); do sleep 0.1; done\nexit $CODE",
}
VARIABLES = {
    "run_name": "small",
    "secrets_file": "",
    "node_cpus": "4",
    "node_gpus": "1",
    "store_bytes": "1073741824",
    "start_deadline_s": "20",
    "requeue": "yes",
    "job_yaml": "name: it's",
    "cluster_yaml": "name: here",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "two",
    "SLURM_JOB_NUM_NODES": "2",
}


@pytest.fixture
def start(tmp_path: Path):
    """``start(variables)`` runs the script in a folder of its own; what it leaves behind is ended with the test."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o700)
    started: list[subprocess.Popen[str]] = []

    def run(**variables: str) -> subprocess.Popen[str]:
        folders = {"work_folder": str(tmp_path), "scratch": str(tmp_path), "LOG": str(tmp_path / "log")}
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        env = {**os.environ, **VARIABLES, **folders, "LASTS": "no", "CODE": "0", **path, **variables}
        (tmp_path / "log").touch()
        script = files("orchestrator.launch").joinpath("ray_on_slurm.sh").read_text()
        started.append(
            subprocess.Popen(["bash", "-c", script], env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
        )
        return started[-1]

    yield run
    for process in started:
        process.communicate(timeout=20)


def wait_for(log: Path, text: str) -> None:
    for _ in range(200):
        if text in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{text} did not come: {log.read_text()}")


def test_ray_starts_on_all_nodes_before_the_run_and_the_token_goes_with_the_job(tmp_path: Path, start) -> None:
    process = start()
    assert process.wait(20) == 0, process.stderr.read()
    head, worker, token, command, _ = (tmp_path / "log").read_text().splitlines()
    assert "ray start" in head
    assert "--head" in head
    assert "--nodelist=other" in worker
    assert "--address=10.0.0.1:20007" in worker
    assert token == "token token token"
    assert command == f"run {tmp_path}/small-7/job.yaml --cluster {tmp_path}/small-7/cluster.yaml"
    assert (tmp_path / "small-7" / "job.yaml").read_text() == "name: it's"
    assert not (tmp_path / "small-7" / "ray.token").exists()
    assert stat.S_IMODE((tmp_path / "small-7").stat().st_mode) == 0o700


@pytest.mark.parametrize(("requeue", "asked"), [("yes", True), ("no", False)])
def test_slurms_warning_stops_the_run_and_puts_the_job_back(tmp_path: Path, start, requeue: str, asked: bool) -> None:
    process = start(LASTS="yes", requeue=requeue)
    wait_for(tmp_path / "log", "token token")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 130
    assert ("requeue 7" in (tmp_path / "log").read_text()) == asked


def test_a_run_that_somebody_stops_is_not_put_back(tmp_path: Path, start) -> None:
    """With a signal of `scancel`, or from elsewhere: then the run ends with 130 and nobody has signalled the script."""
    process = start(LASTS="yes")
    wait_for(tmp_path / "log", "token token")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert start(CODE="130").wait(20) == 130
    assert "requeue" not in (tmp_path / "log").read_text()


def test_a_run_that_failed_is_not_put_back(tmp_path: Path, start) -> None:
    assert start(CODE="1").wait(20) == 1
    assert "requeue" not in (tmp_path / "log").read_text()


def test_a_secrets_file_that_others_read_is_refused(tmp_path: Path, start) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("export CODE=3\n")
    secrets.chmod(0o644)
    process = start(secrets_file=str(secrets))
    assert process.wait(20) == 2
    secrets.chmod(0o600)
    assert start(secrets_file=str(secrets)).wait(20) == 3, "its variables reach the run"


def test_a_secrets_file_that_is_not_there_is_named(tmp_path: Path, start) -> None:
    process = start(secrets_file=str(tmp_path / "absent.env"))
    assert process.wait(20) == 2
    assert f"there is no {tmp_path}/absent.env" in process.stderr.read()


def test_what_setup_does_not_bring_is_named_before_anything_starts(tmp_path: Path, start) -> None:
    (tmp_path / "programs" / "ray").unlink()
    process = start(PATH=f"{tmp_path}/programs:/usr/bin:/bin")
    assert process.wait(20) == 2
    assert "launch.setup brings no ray" in process.stderr.read()
    assert (tmp_path / "log").read_text() == ""


def test_a_ray_that_ends_as_it_starts_is_not_waited_for(tmp_path: Path, start) -> None:
    (tmp_path / "programs" / "srun").write_text("#!/usr/bin/env bash\nexit 1\n")
    process = start(start_deadline_s="600")
    assert process.wait(20) == 1
    assert "Ray ended as it started; see" in process.stderr.read()


def test_variables_of_the_site_stay_what_they_are(tmp_path: Path) -> None:
    place = write_place(tmp_path, setup=["source $SCRATCH/bin/activate"], environment={"SCRATCH": "/of/the/site"})
    script = render_job(load_job(str(ROOT / "jobs/synthetic.yaml")), load_cluster(place))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text("scratch=/elsewhere\n")
    head = script.partition("set -euo pipefail")[0].replace("/of/the/site", str(tmp_path))
    told = subprocess.run(["bash", "-c", f"{head}\necho $scratch; env"], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[0] == "/local"
    assert f"SCRATCH={tmp_path}" in told.stdout.splitlines()


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        ({"time_limit": "00:05:00"}, "time_limit is 00:05:00, and stop_before_s 300"),
        ({"time_limit": "1-00:00:00", "stop_before_s": 65_536}, "launch.stop_before_s"),
        ({"work_folder": "~/jobs"}, "launch.work_folder"),
        ({"scratch": "local"}, "launch.scratch"),
        ({"secrets_file": "secrets.env"}, "launch.secrets_file"),
        ({"secrets_file": "export HF_TOKEN=hf_K7MDENG"}, "launch.secrets_file"),
        ({"setup": ["module load cuda", "export HF_TOKEN=hf_K7MDENG"]}, "HF_TOKEN looks like a secret"),
        ({"setup": ["API_KEY='K7MDENG' true"]}, "API_KEY looks like a secret"),
        ({"environment": {"RAY_ADDRESS": "10.0.0.1:6379"}}, "RAY_ADDRESS is set for every process"),
    ],
)
def test_a_wrong_cluster_file_is_refused_with_its_key(tmp_path: Path, launch: dict[str, Any], said: str) -> None:
    with pytest.raises(JobFileError) as caught:
        load_cluster(write_place(tmp_path, **launch))
    assert said in str(caught.value)
    assert "K7MDENG" not in str(caught.value)


def test_a_secret_that_is_read_from_elsewhere_is_none_in_the_file(tmp_path: Path) -> None:
    setup = ["export HF_TOKEN=$(cat ~/.token)", 'export API_KEY="$MINE"', "export AWS_TOKEN_FILE=/run/token"]
    assert load_cluster(write_place(tmp_path, setup=setup)).launch is not None


def write_place(folder: Path, **launch: Any) -> str:
    place = yaml.safe_load((ROOT / "cluster/slurm/cluster.yaml").read_text())
    (folder / "cluster.yaml").write_text(yaml.safe_dump({**place, "launch": {**place["launch"], **launch}}))
    return str(folder)


def test_what_the_secrets_file_sets_is_masked_in_what_the_run_writes(tmp_path: Path, start) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("# of the site\nexport HF_TOKEN=a\n  export AWS_KEY='b c'; export OTHER=d\nLOCAL=f\n")
    secrets.chmod(0o600)
    assert start(secrets_file=str(secrets)).wait(20) == 0
    assert "masks HF_TOKEN,AWS_KEY,OTHER" in (tmp_path / "log").read_text().splitlines()


def test_without_a_secrets_file_what_the_shell_masks_stays(tmp_path: Path, start) -> None:
    assert start(ORCHESTRATOR_SECRETS="MINE").wait(20) == 0
    assert "masks MINE" in (tmp_path / "log").read_text().splitlines()
