"""The whole pipeline on real DVC and MLflow, in a repository of its own with a handful of pets."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from mlflow import MlflowClient

from stages.runs import tracking
from stages.runs.sync import sync

ROOT = Path(__file__).resolve().parents[1]
TRAIN = {"train@conv_deconv", "train@unet"}
EVALUATE = {"evaluate@conv_deconv", "evaluate@unet"}
EXPORT = {"export@conv_deconv", "export@unet"}
ALL_STAGES = {"prepare", "plot"} | TRAIN | EVALUATE | EXPORT
# A handful of images in their real size: starting up is what takes long.
SMALL = {
    "dataset": "synthetic_pets/tiny",
    "validation_share": 0.3,
    "examples": 2,
    "epochs": 1,
    "export": {"formats": ["litert_float32"], "calibration_images": 1, "max_iou_loss": 1.0},
}
EXPERIMENT = "1"  # the first one that is made in a store
# Every process of every test here: 4 GB of memory of its own, on two cores, because the limit
# counts the whole stack of each thread, and TensorFlow starts some for each core. `tests.faults`
# says why it is this limit.
MEMORY = 4 << 30
CORES = sorted(os.sched_getaffinity(0))[:2]
SMALL_MACHINE = ("prlimit", f"--data={MEMORY}", "taskset", "-c", ",".join(map(str, CORES)))


def _run(repo: Path, *command: str) -> subprocess.CompletedProcess[str]:
    hidden = ("DVC_", "GIT_", "MLFLOW_")
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(hidden)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [*SMALL_MACHINE, *command],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _done(repo: Path, *command: str) -> str:
    result = _run(repo, *command)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _git(repo: Path, *arguments: str) -> str:
    return _done(repo, "git", "-c", "user.name=Test", "-c", "user.email=test@local", *arguments)


def _dvc(repo: Path, *arguments: str) -> str:
    return _done(repo, sys.executable, "-m", "dvc", *arguments)


def _ran(repo: Path, *arguments: str) -> set[str]:
    """The stages that a command of DVC ran."""
    return set(re.findall(r"Running stage '([^']+)'", _dvc(repo, *arguments)))


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
    params = yaml.safe_load((copy / "params.yaml").read_text())
    (copy / "params.yaml").write_text(yaml.safe_dump(params | SMALL, sort_keys=False))
    _git(copy, "init", "--quiet")
    _git(copy, "add", "--all")
    _git(copy, "commit", "--quiet", "--message", "A handful of pets")
    assert _ran(copy, "repro") == ALL_STAGES
    _git(copy, "add", "--all")
    _git(copy, "commit", "--quiet", "--message", "Results")
    return copy


def test_all_of_it_runs_in_4_gb_of_memory_and_a_second_time_runs_nothing(repo: Path) -> None:
    """`repo` has done so; more is refused."""
    assert set(yaml.safe_load((repo / "dvc.lock").read_text())["stages"]) == ALL_STAGES
    assert yaml.safe_load((repo / "params.yaml").read_text())["image_size"] == 128
    asked = _run(repo, "python3", "-c", f"bytearray({MEMORY})")
    assert asked.stderr.endswith("MemoryError\n")
    assert _ran(repo, "repro") == set()


def test_models_and_records_are_not_in_git_and_metrics_and_reports_are(repo: Path) -> None:
    tracked = set(_git(repo, "ls-files").splitlines())
    for network in ("conv_deconv", "unet"):
        assert (repo / "models" / f"{network}.keras").is_file()
        assert (repo / "models" / f"{network}.export").is_dir()
        assert {f"metrics/{network}.json", f"metrics/{network}.history.csv"} <= tracked
        assert f"reports/{network}.card.md" in tracked
    assert "reports/README.md" in tracked
    hidden = ("models/conv_deconv.", "models/unet.", "data/records")
    assert not [name for name in tracked if name.startswith(hidden)]
    assert _git(repo, "status", "--porcelain") == ""


def test_dvc_shows_metrics_and_plots(repo: Path) -> None:
    files = json.loads(_dvc(repo, "metrics", "show", "--json"))[""]["data"]
    for network in ("conv_deconv", "unet"):
        metrics = json.loads((repo / "metrics" / f"{network}.json").read_text())
        shown = files[f"metrics/{network}.summary.json"]["data"][network]
        assert shown["mean_iou"] == metrics["mean_iou"]
        # `dvc exp show` has a column for each, beside the parameters.
        assert len(shown) <= 3
        assert metrics["images"] == 6
    plots = json.loads(_dvc(repo, "plots", "show", "--json", "--split"))["data"]
    assert {"Validation loss", "Validation accuracy", "Training loss"} <= set(plots)


def test_mlflow_has_one_run_for_each_network_with_training_and_test_metrics(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(f"sqlite:///{repo / 'mlflow.db'}")
    runs = client.search_runs([EXPERIMENT])
    assert sorted(run.data.tags["network"] for run in runs) == ["conv_deconv", "unet"]
    for run in runs:
        network = run.data.tags["network"]
        metrics = json.loads((repo / "metrics" / f"{network}.json").read_text())
        assert run.info.status == "FINISHED"
        assert run.data.tags["dvc.stage"] == f"train@{network}"
        assert run.data.metrics["test/mean_iou"] == metrics["mean_iou"]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val_loss")]
        assert steps == [1]
        [model] = client.search_registered_models(f"name = 'pet-segmentation-{network}'")
        [alias] = model.aliases
        assert alias.startswith("champion-synthetic_pets-")
        version = client.get_model_version_by_alias(model.name, alias)
        assert version.run_id == run.info.run_id
    # What was logged while it ran is what `make sync` looks for.
    monkeypatch.setattr(tracking, "ROOT", repo)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sync()
    assert "0 added, 0 completed, 2 there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("data/synthetic_pets/coats.py", {"prepare"}),
        ("stages/prepare/source.py", {"prepare"}),
        ("stages/train/losses.py", TRAIN),
        ("stages/networks/unet/network.py", {"train@unet"}),
        ("stages/evaluate/measurement.py", EVALUATE),
        ("stages/export/__main__.py", EXPORT),
        ("stages/metrics/confusion.py", EVALUATE | EXPORT | {"plot"}),
        ("stages/plot/figures.py", {"plot"}),
        ("stages/records/manifest.py", ALL_STAGES),
        ("stages/params/__init__.py", ALL_STAGES),
        ("stages/runs/tracking.py", set()),
        ("pets/predict.py", set()),
        ("README.md", set()),
        ("tests/test_plot.py", set()),
        # The report lists every parameter.
        ("dataset=oxford_iiit_pet", {"prepare", "plot"}),
        ("epochs=2", TRAIN | {"plot"}),
        ("unet.learning_rate=0.5", {"train@unet", "plot"}),
        ("extremes=3", EVALUATE | {"plot"}),
        ("export.max_iou_loss=0.5", EXPORT | {"plot"}),
    ],
)
def test_an_edit_reaches_exactly_its_stages(repo: Path, edit: str, expected: set[str]) -> None:
    """The stages whose own inputs an edit changes; those after them follow if an output changes."""
    if "=" in edit:
        apply_overrides(repo / "params.yaml", [edit])  # as `dvc exp run -S` does
    else:
        with (repo / edit).open("a") as file:
            file.write("\n# An edit.\n")
    try:
        # What `dvc status` says, without the start of a process.
        with contextlib.chdir(repo), Repo() as dvc:
            assert set(dvc.status()) == expected
    finally:
        _git(repo, "checkout", "--quiet", "--", ".")


def test_an_experiment_with_a_networks_parameter_runs_it_alone_and_is_logged(repo: Path) -> None:
    """In a copy of the repository; its runs are in the store of the repository itself."""
    assert _ran(
        repo, "exp", "run", "--temp", "--name", "short-tabby", *EVALUATE,
        "--set-param", "conv_deconv.learning_rate=0.0005",
    ) == {"train@conv_deconv", "evaluate@conv_deconv"}  # fmt: skip
    client = MlflowClient(f"sqlite:///{repo / 'mlflow.db'}")
    [run] = client.search_runs([EXPERIMENT], "tags.`dvc.experiment` = 'short-tabby'")
    assert run.info.run_name == "conv_deconv · short-tabby"
    assert run.data.params["learning_rate"] == "0.0005"
    assert len(client.get_metric_history(run.info.run_id, "val_loss")) == SMALL["epochs"]
    assert "test/mean_iou" in run.data.metrics
    assert run.data.tags["dvc.baseline"] == _git(repo, "rev-parse", "HEAD").strip()
    assert _git(repo, "status", "--porcelain") == ""


def test_an_experiment_comes_into_the_workspace_and_going_back_runs_nothing(repo: Path) -> None:
    """Metrics and reports are back from Git, the network comes from DVC's run-cache."""
    _dvc(repo, "exp", "apply", "short-tabby")
    assert "models/conv_deconv.keras" in _git(repo, "diff", "dvc.lock")
    _git(repo, "checkout", "--quiet", "--", ".")
    assert _ran(repo, "repro") == set()
    assert _git(repo, "status", "--porcelain") == ""


def test_a_key_that_does_not_exist_stops_the_pipeline_with_one_line(repo: Path) -> None:
    with (repo / "params.yaml").open("a") as file:
        file.write("epoch: 3\n")
    result = _run(repo, sys.executable, "-m", "dvc", "repro")
    assert result.returncode == 255
    assert "params.yaml: epoch: " in result.stderr
    assert "Traceback" not in result.stderr
