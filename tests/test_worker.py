"""A laptop and a worker with a shared remote, on real Git and DVC, and stages that take no time."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ALL_STAGES = {"train@conv_deconv", "train@unet", "plot"}
# With the seed 13 the training fails, and the report where a learning rate is 0.13.
PIPELINE = """
stages:
  train:
    matrix: {network: [conv_deconv, unet]}
    cmd: >-
      test ${seed} != 13 && mkdir -p models metrics &&
      echo ${seed} $(grep -A1 ${item.network}: params.yaml | tail -1) |
      tee models/${item.network}.keras > metrics/${item.network}.json
    params: [seed, "${item.network}"]
    outs: ["models/${item.network}.keras"]
    metrics: ["metrics/${item.network}.json": {cache: false}]
  plot:
    cmd: "! grep -q 0.13 metrics/* && mkdir reports && cat metrics/* > reports/README.md"
    deps: [metrics]
    outs: [reports: {cache: false}]
"""


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))
    }
    paths = (Path(sys.executable).parent, environment["PATH"])
    environment |= {
        "PATH": os.pathsep.join(map(str, paths)),
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        **{f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "test@localhost" for who in ("AUTHOR", "COMMITTER")},
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def _ok(folder: Path, *command: str) -> str:
    result = _run(folder, *command)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _work(worker: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `make worker` in an environment that notes what is installed, and installs nothing."""
    python = worker / ".venv" / "bin" / "python"
    if not python.exists():
        python.parent.mkdir(parents=True)
        python.write_text(
            f'#!/bin/sh\ncase "$*" in "-m pip"*) cat requirements.lock >> .venv/log;;'
            f' *) exec {sys.executable} "$@";; esac\n'
        )
        python.chmod(0o755)
    return _run(worker, "make", "worker", *variables)


def _stages(output: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", output))


def _edit(folder: Path, message: str, **values: object) -> None:
    """Sets parameters of the U-Net, commits and pushes."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["unet"].update(values)
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    _ok(folder, "git", "commit", "--quiet", "--all", "--message", message)
    _ok(folder, "git", "push", "--quiet")


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, str]]:
    """An empty bucket of a real S3 API on loopback, and the API's address."""
    server = pytest.importorskip("moto.server", reason="the extra dev has moto and dvc-s3")
    pytest.importorskip("dvc_s3")
    boto3 = pytest.importorskip("boto3")
    api = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    api.start()
    host, port = api.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(
        Bucket="networks"
    )
    yield "s3://networks/pets", url
    api.stop()


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone without results that has pushed its first commit; the remotes lie beside it."""
    folder = tmp_path_factory.mktemp("two-machines")
    _ok(folder, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    _ok(folder, "git", "clone", "--quiet", "origin.git", "laptop")
    laptop = folder / "laptop"
    for name in ("Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, laptop / name)
    (laptop / "requirements.lock").write_text("first\n")
    (laptop / "dvc.yaml").write_text(PIPELINE)
    (laptop / "params.yaml").write_text(
        "seed: 0\nconv_deconv:\n  learning_rate: 0.001\nunet:\n  learning_rate: 0.001\n"
    )
    (laptop / "models").mkdir()
    (laptop / "models" / ".gitignore").write_text("*.keras\n")
    _ok(laptop, "dvc", "init", "--quiet")
    _ok(laptop, "dvc", "remote", "add", "--default", "storage", str(folder / "storage"))
    _ok(laptop, "git", "checkout", "--quiet", "-b", "main")
    _ok(laptop, "git", "add", "--all")
    _ok(laptop, "git", "commit", "--quiet", "--message", "The pipeline")
    _ok(laptop, "git", "push", "--quiet", "--set-upstream", "origin", "main")
    return laptop


@pytest.fixture(scope="module")
def worker(laptop: Path) -> Path:
    """A fresh clone that has run everything once."""
    _ok(laptop.parent, "git", "clone", "--quiet", "origin.git", "worker")
    worker = laptop.parent / "worker"
    result = _work(worker)
    assert result.returncode == 0, result.stdout + result.stderr
    assert _stages(result.stdout) == ALL_STAGES
    return worker


def test_the_worker_runs_what_changed_and_the_laptop_nothing(laptop: Path, worker: Path) -> None:
    _ok(laptop, "git", "pull", "--quiet")
    _ok(laptop, "dvc", "pull", "--run-cache")
    assert _stages(_ok(laptop, "dvc", "repro")) == set()
    (laptop / "requirements.lock").write_text("second\n")
    _edit(laptop, "Learn slower", learning_rate=0.0001)
    result = _work(worker)
    assert (worker / ".venv" / "log").read_text() == "first\nsecond\n"
    assert result.returncode == 0, result.stdout + result.stderr
    assert _stages(result.stdout) == {"train@unet", "plot"}
    _ok(laptop, "git", "pull", "--quiet")
    _ok(laptop, "dvc", "pull", "--run-cache")
    assert _stages(_ok(laptop, "dvc", "repro")) == set()
    assert _ok(laptop, "git", "status", "--porcelain") == ""
    model = "models/unet.keras"
    assert (laptop / model).read_bytes() == (worker / model).read_bytes()
    head = _ok(laptop, "git", "log", "-2", "--format=%s").splitlines()
    assert re.fullmatch(r"Results of [0-9a-f]{7,}", head[0])
    assert head[1] == "Learn slower"


def test_a_remote_on_s3_carries_results_from_the_worker_to_the_laptop(
    laptop: Path, bucket: tuple[str, str]
) -> None:
    address, url = bucket
    folder = laptop.parent / "s3"
    folder.mkdir()
    _ok(folder, "git", "clone", "--quiet", "--bare", str(laptop), "origin.git")
    _ok(folder, "git", "clone", "--quiet", "origin.git", "laptop")
    _ok(folder / "laptop", "dvc", "remote", "add", "--force", "--default", "storage", address)
    _ok(folder / "laptop", "dvc", "remote", "modify", "storage", "endpointurl", url)
    # What there is of results lies in the folder that was the remote before.
    _ok(folder / "laptop", "git", "rm", "--quiet", "--ignore-unmatch", "dvc.lock")
    _ok(folder / "laptop", "git", "commit", "--quiet", "--all", "--message", "A remote on S3")
    _ok(folder / "laptop", "git", "push", "--quiet")
    _ok(folder, "git", "clone", "--quiet", "origin.git", "worker")
    result = _work(folder / "worker")
    assert result.returncode == 0, result.stdout + result.stderr
    assert _stages(result.stdout) == ALL_STAGES
    _ok(folder / "laptop", "git", "pull", "--quiet")
    _ok(folder / "laptop", "dvc", "pull", "--run-cache")
    assert _stages(_ok(folder / "laptop", "dvc", "repro")) == set()
    model = Path("models") / "conv_deconv.keras"
    both = [(folder / name / model).read_bytes() for name in ("laptop", "worker")]
    assert both[0] == both[1]


def test_another_fresh_worker_takes_all_from_the_remote(worker: Path) -> None:
    folder = worker.parent
    _ok(folder, "git", "clone", "--quiet", "origin.git", "other")
    result = _work(folder / "other")
    assert result.returncode == 0, result.stdout + result.stderr
    assert _stages(result.stdout) == set()


def test_a_failed_experiment_of_the_queue_is_named_and_the_others_are_pushed(
    laptop: Path, worker: Path
) -> None:
    for name, seed in (("tabby", 1), ("siamese", 13)):
        _ok(worker, "dvc", "exp", "run", "--queue", "--name", name, "--set-param", f"seed={seed}")
    result = _work(worker, "JOBS=2")
    assert result.returncode != 0
    assert "failed: experiment siamese; all that has finished" in result.stderr
    assert "Traceback" not in result.stderr
    _ok(laptop, "git", "pull", "--quiet")
    listed = _ok(laptop, "dvc", "exp", "list", "--all-commits", "--name-only", "origin")
    assert "tabby" in listed
    assert "siamese" not in listed
    _ok(laptop, "dvc", "exp", "pull", "origin", "tabby", "--run-cache")
    _ok(laptop, "dvc", "exp", "apply", "tabby")
    assert _stages(_ok(laptop, "dvc", "repro")) == set()
    _ok(laptop, "git", "checkout", "--quiet", "--", ".")


def test_after_a_failed_pipeline_the_worker_takes_the_next_commit(
    laptop: Path, worker: Path
) -> None:
    """The U-Net is trained again and the report fails: results of some stages only."""
    _ok(laptop, "git", "pull", "--quiet")
    _edit(laptop, "Fail", learning_rate=0.13)
    result = _work(worker)
    assert result.returncode != 0
    assert "failed: dvc repro; all that has finished is pushed" in result.stderr
    assert {"train@unet", "plot"} <= _stages(result.stdout)
    assert _ok(worker, "git", "status", "--porcelain") == ""
    _edit(laptop, "Mend", learning_rate=0.0002)
    result = _work(worker)
    assert result.returncode == 0, result.stdout + result.stderr
    assert _ok(worker, "git", "log", "-2", "--format=%s").endswith("Mend\n")
    _ok(laptop, "git", "pull", "--quiet")


def test_unfinished_edits_stop_the_worker_before_it_runs(worker: Path) -> None:
    path = worker / "dvc.yaml"
    path.write_text(path.read_text() + "# An edit.\n")
    result = _work(worker)
    _ok(worker, "git", "restore", "dvc.yaml")
    assert result.returncode != 0
    assert "dvc.yaml: not committed" in result.stderr
    assert _stages(result.stdout) == set()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("git", "branch", "--unset-upstream"), "no tracking information"),
        (("dvc", "config", "--local", "core.remote", ""), "DVC has no remote"),
    ],
)
def test_a_worker_that_could_not_push_its_results_says_what_is_missing(
    worker: Path, command: tuple[str, ...], message: str
) -> None:
    _ok(worker.parent, "git", "clone", "--quiet", "origin.git", message)
    _ok(worker.parent / message, *command)
    result = _work(worker.parent / message)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_workflow_of_a_self_hosted_runner_names_what_there_is() -> None:
    workflow = yaml.load((ROOT / ".github/workflows/worker.yml").read_text(), yaml.BaseLoader)
    for pattern in workflow["on"]["push"]["paths"]:
        assert list(ROOT.glob(pattern)), pattern
    makefile = (ROOT / "Makefile").read_text()
    steps = [step.get("run", "") for step in workflow["jobs"]["reproduce"]["steps"]]
    (used,) = re.findall(r"\bmake (\w+) (\w+)=(\w+)", "\n".join(steps))
    assert used == ("worker", "EXTRAS", "gpu")
    assert re.search(r"^worker:", makefile, re.MULTILINE)
    assert "$(EXTRAS)" in makefile
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert "gpu" in extras


def test_make_repro_ends_with_the_sync_and_notes_changed_parameters(tmp_path: Path) -> None:
    """As after `dvc exp run -S epochs=40` in the workspace, with a tracker that is down."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "params.yaml").write_text("epochs: 7\n")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "dvc"):  # they note what is run; the sync fails
        script = f'echo {name} "$@" >> log; echo said; case "$*" in *sync) exit 1; esac'
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    _ok(tmp_path, "git", "init", "--quiet")
    _ok(tmp_path, "git", "add", "params.yaml")
    _ok(tmp_path, "git", "commit", "--quiet", "--message", "Parameters")
    command = ("make", "-o", ".venv/.installed", "repro")
    result = _run(tmp_path, *command)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "log").read_text().splitlines()[-2:] == [
        "dvc repro",
        "python -m stages.runs.sync",
    ]
    assert result.stdout.count("said") == 2  # not what the sync says
    (tmp_path / "params.yaml").write_text("epochs: 40\n")
    assert "params.yaml differs from the commit" in _run(tmp_path, *command).stderr
