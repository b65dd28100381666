"""A laptop and a worker with a shared remote, on real Git and DVC, and stages that take no time."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages.stage import StageError
from tools.worker import main

ROOT = Path(__file__).resolve().parents[1]
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
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": "Test", f"GIT_{who}_EMAIL": "test@localhost"}
    environment["PYTHONPATH"] = str(ROOT)
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


def _clone(folder: Path, name: str) -> Path:
    _ok(folder, "git", "clone", "--quiet", "origin.git", name)
    return folder / name


def _set_remote(clone: Path, **options: str) -> None:
    with Repo(str(clone)) as repo, repo.config.edit("repo") as config:
        config["core"] = {"remote": "storage"}
        config["remote"] = {"storage": options}


def _pull_and_run_nothing(laptop: Path) -> None:
    """Take the worker's results: they are complete and committed."""
    _ok(laptop, "git", "pull", "--quiet")
    with contextlib.chdir(laptop), Repo() as repo:
        repo.pull(run_cache=True)
        assert repo.reproduce() == []
    assert _ok(laptop, "git", "status", "--porcelain") == ""


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone without results that has pushed its first commit, with a DVC remote on S3."""
    server = pytest.importorskip("moto.server", reason="the extra dev has moto and dvc-s3")
    boto3 = pytest.importorskip("boto3")
    api = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    api.start()
    url = "http://{}:{}".format(*api.get_host_and_port())
    folder = tmp_path_factory.mktemp("two-machines")
    _ok(folder, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    laptop = _clone(folder, "laptop")
    for name in ("Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, laptop / name)
    (laptop / "requirements.lock").write_text("first\n")
    (laptop / "dvc.yaml").write_text(PIPELINE)
    (laptop / "params.yaml").write_text(
        "seed: 0\nconv_deconv:\n  learning_rate: 0.001\nunet:\n  learning_rate: 0.001\n"
    )
    (laptop / "models").mkdir()
    (laptop / "models" / ".gitignore").write_text("*.keras\n")
    Repo.init(str(laptop)).close()
    _set_remote(laptop, url="s3://networks/pets", endpointurl=url)
    _ok(laptop, "git", "checkout", "--quiet", "-b", "main")
    _ok(laptop, "git", "add", "--all")
    _ok(laptop, "git", "commit", "--quiet", "--message", "The pipeline")
    _ok(laptop, "git", "push", "--quiet", "--set-upstream", "origin", "main")
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "test")
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket="networks")
        yield laptop
    api.stop()


@pytest.fixture(scope="module")
def results(laptop: Path) -> str:
    """What the first worker says; the laptop has pulled its results."""
    result = _work(_clone(laptop.parent, "first"))
    assert result.returncode == 0, result.stdout + result.stderr
    _pull_and_run_nothing(laptop)
    return result.stdout


def test_a_remote_on_s3_carries_results_from_the_worker_to_the_laptop(results: str) -> None:
    assert _stages(results) == {"train@conv_deconv", "train@unet", "plot"}


@pytest.mark.usefixtures("results")
def test_after_a_failed_pipeline_the_worker_takes_the_next_commit(laptop: Path) -> None:
    """On a fresh clone the U-Net is trained, then the report fails, and one of two experiments."""
    _set_remote(laptop, url=str(laptop.parent / "storage"))
    with Repo(str(laptop)) as repo:
        repo.push(run_cache=True)
    worker = _clone(laptop.parent, "worker")
    _ok(worker, "dvc", "exp", "run", "--queue", "--name", "cat", "--set-param", "seed=1,13")
    _edit(laptop, "Fail", learning_rate=0.13)
    result = _work(worker, "JOBS=2")
    assert result.returncode != 0
    said = "failed: dvc repro, experiment cat-2; all that has finished is pushed"
    assert (said in result.stderr, "Traceback" in result.stderr) == (True, False)
    assert {"train@unet", "plot"} <= _stages(result.stdout)
    assert _ok(worker, "git", "status", "--porcelain") == ""
    with contextlib.chdir(laptop), Repo() as repo:
        pushed = repo.experiments.ls(all_commits=True, git_remote="origin").values()
        names = {name for experiments in pushed for name, _ in experiments}
        assert {"cat-1", "cat-2"} & names == {"cat-1"}
        repo.experiments.pull("origin", ["cat-1"], pull_cache=True, run_cache=True)
        repo.experiments.apply("cat-1")
        assert repo.reproduce() == []
    _ok(laptop, "git", "checkout", "--quiet", "--force", "main")
    (laptop / "requirements.lock").write_text("second\n")
    _edit(laptop, "Mend", learning_rate=0.0002)
    result = _work(worker)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (worker / ".venv" / "log").read_text() == "first\nsecond\n"
    assert _stages(result.stdout) == {"train@unet", "plot"}
    _pull_and_run_nothing(laptop)
    model = "models/unet.keras"
    assert (laptop / model).read_bytes() == (worker / model).read_bytes()
    head = _ok(laptop, "git", "log", "-2", "--format=%s").splitlines()
    assert re.fullmatch(r"Results of [0-9a-f]{7,}", head[0])
    assert head[1] == "Mend"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("cp", "dvc.yaml", "params.yaml"), r"params.yaml: not committed; commit or `git restore`"),
        (("git", "config", "--file", ".dvc/config.local", "core.remote", ""), "DVC has no remote"),
    ],
)
def test_a_worker_that_could_not_push_its_results_says_so_before_it_runs(
    laptop: Path, tmp_path: Path, command: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _ok(tmp_path, "git", "clone", "--quiet", str(laptop.parent / "origin.git"), "clone")
    _ok(tmp_path / "clone", *command)
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(StageError, match=message):
        main()


def test_the_workflow_of_a_self_hosted_runner_names_what_there_is() -> None:
    workflow = yaml.load((ROOT / ".github/workflows/worker.yml").read_text(), yaml.BaseLoader)
    patterns = workflow["on"]["push"]["paths"]
    assert all(list(ROOT.glob(pattern)) for pattern in patterns)
    # A push that changes what the first stage reads starts the worker too.
    prepare = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["prepare"]
    roots = tuple(pattern.removesuffix("**") for pattern in patterns)
    deps = [dep.replace("${own.folder}", "data/own") for dep in prepare["deps"]]
    assert all(f"{dep}/".startswith(roots) for dep in deps)
    steps = [step.get("run", "") for step in workflow["jobs"]["reproduce"]["steps"]]
    assert "make worker EXTRAS=gpu" in "\n".join(steps)


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
    commands = (tmp_path / "log").read_text().splitlines()
    assert commands[-2:] == ["dvc repro", "python -m stages.runs.sync"]
    assert result.stdout.count("said") == 2  # not what the sync says
    (tmp_path / "params.yaml").write_text("epochs: 40\n")
    assert "params.yaml differs from the commit" in _run(tmp_path, *command).stderr
