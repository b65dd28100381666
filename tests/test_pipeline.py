"""The whole pipeline on real DVC and MLflow, in a repository of its own with a handful of pets."""

import json
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
from dvc.utils.hydra import apply_overrides
from mlflow import MlflowClient

from recipes.__main__ import load_recipe, overrides
from stages.runs import tracking
from stages.runs.sync import sync

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "unet"  # the larger one; Conv-Deconv is trained as an experiment
TRAIN, EVALUATE, EXPORT = (f"{stage}@{NETWORK}" for stage in ("train", "evaluate", "export"))
ALL_STAGES = {"prepare", TRAIN, EVALUATE, EXPORT, "plot"}
# Every process that runs stages: 4 GB of memory of its own, on two cores, because the limit counts
# the whole stack of each thread, and TensorFlow starts some for each core. `tests.faults` says why
# it is this limit.
MEMORY = 4 << 30
CORES = sorted(os.sched_getaffinity(0))[:2]
SMALL_MACHINE = ("prlimit", f"--data={MEMORY}", "taskset", "-c", ",".join(map(str, CORES)))


def _done(repo: Path, *command: str) -> str:
    hidden = ("DVC_", "GIT_", "MLFLOW_")
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(hidden)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(
        command, cwd=repo, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _git(repo: Path, *arguments: str) -> str:
    return _done(repo, "git", "-c", "user.name=Test", "-c", "user.email=test@local", *arguments)


def _ran(repo: Path, *arguments: str) -> set[str]:
    """The stages that a command of DVC ran."""
    shown = _done(repo, *SMALL_MACHINE, sys.executable, "-m", "dvc", *arguments)
    return set(re.findall(r"Running stage '([^']+)'", shown))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what Git tracks or would track here, reproduced once on the handful of pets."""
    copy = tmp_path_factory.mktemp("pipeline") / "repo"
    listed = _git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    for name in listed.splitlines():
        # The committed results are those of other parameters.
        if not name.startswith(("metrics/", "reports/", "dvc.lock")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    small = load_recipe("smoke") | {"networks": [NETWORK], "image_size": 128}
    small |= {"unet.train_encoder": False}  # traced twice as fast
    apply_overrides(copy / "params.yaml", overrides(small))
    _git(copy, "init", "--quiet")
    _git(copy, "add", "--all")
    _git(copy, "commit", "--quiet", "--message", "A handful of pets")
    assert _ran(copy, "repro") == ALL_STAGES
    _git(copy, "add", "--all")
    _git(copy, "commit", "--quiet", "--message", "Results")
    return copy


@pytest.fixture(scope="module")
def dvc(repo: Path) -> Iterator[Repo]:
    """DVC in this process, whose start takes a second: for what runs no stage."""
    with pytest.MonkeyPatch.context() as patch, Repo(str(repo)) as dvc:
        patch.chdir(repo)
        yield dvc


def test_all_of_it_runs_in_4_gb_of_memory_and_a_second_time_runs_nothing(
    repo: Path, dvc: Repo
) -> None:
    """`repo` has done so; more is refused."""
    program = f"try: bytearray({MEMORY})\nexcept MemoryError: print('refused')"
    assert _done(repo, *SMALL_MACHINE, "python3", "-c", program) == "refused\n"
    assert set(yaml.safe_load((repo / "dvc.lock").read_text())["stages"]) == ALL_STAGES
    assert dvc.reproduce() == []
    assert _git(repo, "status", "--porcelain") == ""
    tracked = set(_git(repo, "ls-files", "metrics", "reports", "models", "data/records").split())
    assert {f"metrics/{NETWORK}.json", "reports/README.md"} <= tracked
    assert not [name for name in tracked if name.startswith((f"models/{NETWORK}.", "data/"))]


def test_dvc_and_mlflow_show_the_metrics(
    repo: Path, dvc: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = json.loads((repo / "metrics" / f"{NETWORK}.json").read_text())
    [summary] = dvc.metrics.show()[""]["data"].values()
    # `dvc exp show` has a column for each, beside the parameters.
    assert len(summary["data"][NETWORK]) <= 3
    assert (summary["data"][NETWORK]["mean_iou"], metrics["images"]) == (metrics["mean_iou"], 6)
    [plots] = dvc.plots.collect()
    plots = plots["workspace"]["definitions"]["data"]["dvc.yaml"]["data"]
    assert {"Validation loss", "Validation accuracy", "Training loss"} <= set(plots)
    client = MlflowClient(f"sqlite:///{repo / 'mlflow.db'}")
    [run] = client.search_runs(["1"])
    assert (run.data.tags["network"], run.data.tags["dvc.stage"]) == (NETWORK, TRAIN)
    assert (run.info.status, run.data.metrics["test/mean_iou"]) == ("FINISHED", metrics["mean_iou"])
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val_loss")]
    assert steps == [1]
    [model] = client.search_registered_models()
    [(alias, version)] = model.aliases.items()
    assert alias.startswith("champion-synthetic_pets-")
    assert client.get_model_version(model.name, version).run_id == run.info.run_id
    # What was logged while it ran is what `make sync` looks for.
    monkeypatch.setattr(tracking, "ROOT", repo)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sync()
    assert "0 added, 0 completed, 1 there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("data/synthetic_pets/pets.py", {"prepare"}),
        ("stages/train/losses.py", {TRAIN}),
        ("stages/networks/unet/network.py", {TRAIN}),
        ("stages/networks/conv_deconv/network.py", set()),
        ("stages/metrics/confusion.py", {EVALUATE, EXPORT, "plot"}),
        ("stages/records/manifest.py", ALL_STAGES),
        ("stages/runs/tracking.py", set()),
        # The report lists every parameter.
        ("dataset=oxford_iiit_pet", {"prepare", "plot"}),
        ("unet.learning_rate=0.5", {TRAIN, "plot"}),
        ("conv_deconv.learning_rate=0.5", {"plot"}),
        ("extremes=3", {EVALUATE, "plot"}),
        ("export.max_iou_loss=0.5", {EXPORT, "plot"}),
    ],
)
def test_an_edit_reaches_exactly_its_stages(
    repo: Path, dvc: Repo, edit: str, expected: set[str]
) -> None:
    """The stages whose own inputs an edit changes; those after them follow if an output changes."""
    file = repo / ("params.yaml" if "=" in edit else edit)
    before = file.read_bytes()
    if "=" in edit:
        apply_overrides(file, [edit])  # as `dvc exp run -S` does
    else:
        file.write_bytes(before + b"\n# An edit.\n")
    try:
        assert set(dvc.status()) == expected
    finally:
        file.write_bytes(before)


def test_an_experiment_runs_in_a_copy_and_is_logged_in_the_repository(repo: Path) -> None:
    assert _ran(
        repo, "exp", "run", "--temp", "--name", "short-tabby", "train@conv_deconv",
        "-S", "networks=[conv_deconv]", "-S", "conv_deconv.learning_rate=0.0005",
    ) == {"train@conv_deconv"}  # fmt: skip
    client = MlflowClient(f"sqlite:///{repo / 'mlflow.db'}")
    [run] = client.search_runs(["1"], "tags.`dvc.experiment` = 'short-tabby'")
    assert run.info.run_name == "conv_deconv · short-tabby"
    assert run.data.params["learning_rate"] == "0.0005"
    assert len(client.get_metric_history(run.info.run_id, "val_loss")) == 1
    baseline = _git(repo, "rev-parse", "HEAD").strip()
    # The branch may have moved on since an experiment was queued.
    assert run.data.tags["dvc.baseline"] == run.data.tags["mlflow.source.git.commit"] == baseline
    assert _git(repo, "status", "--porcelain") == ""
