"""The whole pipeline on real DVC and MLflow, in a repository of its own with a handful of pets."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient

ROOT = Path(__file__).resolve().parents[1]
ALL_STAGES = {
    "prepare",
    "train@conv_deconv",
    "train@unet",
    "evaluate@conv_deconv",
    "evaluate@unet",
    "export@conv_deconv",
    "export@unet",
    "plot",
}
# A handful of pictures in their real size: starting up is what takes long.
SMALL = {
    "dataset": "synthetic_pets/tiny",
    "validation_share": 0.3,
    "examples": 2,
    "epochs": 1,
    "export": {"formats": ["litert_int8"], "calibration_pictures": 4, "max_iou_loss": 1.0},
}


# Every process of every test here: 4 GB of memory of its own, on two cores, because the limit
# counts the whole stack of each thread, and TensorFlow starts some for each core. `tests.faults`
# says why it is this limit.
MEMORY = 4 << 30
CORES = sorted(os.sched_getaffinity(0))[:2]
SMALL_MACHINE = ("prlimit", f"--data={MEMORY}", "taskset", "-c", ",".join(map(str, CORES)))


def _run(repo: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("DVC_", "GIT_", "MLFLOW_"))
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [*SMALL_MACHINE, *command],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _git(repo: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    result = _run(repo, "git", *identity, *arguments)
    assert result.returncode == 0, result.stderr


def _repro(repo: Path, *arguments: str) -> set[str]:
    """Runs `dvc repro` and returns the stages that it ran."""
    result = _run(repo, sys.executable, "-m", "dvc", "repro", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return set(re.findall(r"Running stage '([^']+)'", result.stdout))


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what Git tracks or would track here, reproduced once on the handful of pets."""
    copy = tmp_path_factory.mktemp("pipeline") / "repo"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        # The committed results are those of other parameters.
        if (ROOT / name).is_file() and name.split("/")[0] not in {"metrics", "reports"}:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    (copy / "dvc.lock").unlink(missing_ok=True)
    params = yaml.safe_load((copy / "params.yaml").read_text())
    (copy / "params.yaml").write_text(yaml.safe_dump(params | SMALL, sort_keys=False))
    _git(copy, "init", "--quiet")
    _git(copy, "add", "--all")
    _git(copy, "commit", "--quiet", "--message", "A handful of pets")
    assert _repro(copy) == ALL_STAGES
    _git(copy, "add", "--all")
    _git(copy, "commit", "--quiet", "--message", "Results")
    return copy


def test_a_second_repro_runs_nothing(repo: Path) -> None:
    assert _repro(repo) == set()


def test_all_of_it_runs_in_4_gb_of_memory(repo: Path) -> None:
    """`repo` has done so; more is refused."""
    lock = yaml.safe_load((repo / "dvc.lock").read_text())
    assert set(lock["stages"]) == ALL_STAGES
    assert yaml.safe_load((repo / "params.yaml").read_text())["image_size"] == 128
    asked = _run(repo, sys.executable, "-c", f"bytearray({MEMORY})")
    assert asked.stderr.endswith("MemoryError\n")


def test_models_and_records_are_not_in_git_and_metrics_and_reports_are(repo: Path) -> None:
    tracked = set(_run(repo, "git", "ls-files").stdout.splitlines())
    for network in ("conv_deconv", "unet"):
        assert (repo / "models" / f"{network}.keras").is_file()
        assert f"models/{network}.keras" not in tracked
        assert (repo / "models" / f"{network}.export" / f"{network}.int8.tflite").is_file()
        assert not [name for name in tracked if name.startswith(f"models/{network}.export")]
        assert {f"metrics/{network}.json", f"metrics/{network}.history.csv"} <= tracked
    assert "reports/README.md" in tracked
    assert not [name for name in tracked if name.startswith("data/records")]
    assert _run(repo, "git", "status", "--porcelain").stdout == ""


def test_dvc_shows_metrics_and_plots(repo: Path) -> None:
    shown = _run(repo, sys.executable, "-m", "dvc", "metrics", "show", "--json")
    files = json.loads(shown.stdout)[""]["data"]
    for network in ("conv_deconv", "unet"):
        figures = json.loads((repo / "metrics" / f"{network}.json").read_text())
        shown_figures = files[f"metrics/{network}.summary.json"]["data"][network]
        assert shown_figures["mean_iou"] == figures["mean_iou"]
        # `dvc exp show` has a column for each, beside the parameters.
        assert len(shown_figures) <= 3
        assert figures["images"] == 6
    plots = _run(repo, sys.executable, "-m", "dvc", "plots", "show", "--json", "--split")
    assert {"Validation loss", "Validation accuracy", "Training loss"} <= set(
        json.loads(plots.stdout)["data"]
    )


def test_mlflow_has_one_run_for_each_network_with_training_and_test_figures(repo: Path) -> None:
    client = MlflowClient(f"sqlite:///{repo / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pet-segmentation")
    assert experiment is not None
    runs = {
        run.data.tags["network"]: run
        for run in client.search_runs([experiment.experiment_id])
        if not run.data.tags.get("dvc.experiment")
    }
    assert set(runs) == {"conv_deconv", "unet"}
    for network, run in runs.items():
        figures = json.loads((repo / "metrics" / f"{network}.json").read_text())
        assert run.info.status == "FINISHED"
        assert run.data.tags["dvc.stage"] == f"train@{network}"
        assert run.data.metrics["test/mean_iou"] == figures["mean_iou"]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val_loss")]
        assert steps == [1]
        version = client.get_model_version_by_alias(f"pet-segmentation-{network}", "champion")
        assert version.run_id == run.info.run_id
        pictures = {file.path for file in client.list_artifacts(run.info.run_id, "pictures")}
        assert pictures == {f"pictures/{network}.{kind}.png" for kind in ("worst", "best")}
    # What was logged while it ran is what `make sync` looks for.
    synced = _run(repo, sys.executable, "-m", "tools.sync")
    assert "0 added, 0 completed, 2 there already" in synced.stdout, synced.stderr


def _append(file: str) -> Callable[[Path], None]:
    def edit(repo: Path) -> None:
        with (repo / file).open("a") as opened:
            opened.write("\n# An edit.\n")

    return edit


def _set(path: str, value: object) -> Callable[[Path], None]:
    def edit(repo: Path) -> None:
        params = yaml.safe_load((repo / "params.yaml").read_text())
        *groups, key = path.split(".")
        group = params
        for name in groups:
            group = group[name]
        group[key] = value
        (repo / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    return edit


TRAIN = {"train@conv_deconv", "train@unet"}
EVALUATE = {"evaluate@conv_deconv", "evaluate@unet"}
EXPORT = {"export@conv_deconv", "export@unet"}


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (_append("stages/prepare.py"), {"prepare"}),
        (_append("stages/source.py"), {"prepare"}),
        (_append("stages/synthetic_pets/coats.py"), {"prepare"}),
        (_append("stages/train.py"), TRAIN),
        (_append("stages/augment.py"), TRAIN),
        (_append("stages/networks/unet/network.py"), {"train@unet"}),
        (_append("stages/networks/unet/pix2pix.py"), {"train@unet"}),
        (_append("stages/networks/conv_deconv/network.py"), {"train@conv_deconv"}),
        (_append("stages/evaluate.py"), EVALUATE),
        (_append("stages/results.py"), EVALUATE),
        (_append("stages/measurement.py"), EVALUATE),
        (_append("stages/calibration.py"), EVALUATE),
        (_append("stages/confusion.py"), EVALUATE | EXPORT | {"plot"}),
        (_append("stages/inference.py"), EVALUATE | EXPORT),
        (_append("stages/conversion.py"), EXPORT),
        (_append("stages/model_card.py"), EXPORT),
        (_append("stages/records.py"), {"prepare"} | TRAIN | EVALUATE | EXPORT),
        (_append("pets/predict.py"), set()),
        (_append("stages/plot.py"), {"plot"}),
        (_append("stages/figures.py"), {"plot"}),
        (_append("stages/page.py"), {"plot"}),
        (_append("stages/run_record.py"), ALL_STAGES),
        (_append("stages/palette.py"), EVALUATE | {"plot"}),
        (_append("stages/params.py"), ALL_STAGES),
        (_append("params.yaml"), set()),
        (_append("README.md"), set()),
        (_append("tests/test_plot.py"), set()),
        (_set("dataset", "oxford_iiit_pet"), {"prepare"}),
        (_set("examples", 3), {"prepare"}),
        (_set("extremes", 3), EVALUATE),
        (_set("seed", 1), TRAIN | EVALUATE | {"plot"}),
        (_set("epochs", 2), TRAIN),
        (_set("augmentation.horizontal_flip", False), TRAIN),
        (_set("unet.learning_rate", 0.5), {"train@unet", "export@unet"}),
        (_set("conv_deconv.learning_rate", 0.5), {"train@conv_deconv", "export@conv_deconv"}),
        (_set("export.max_iou_loss", 0.5), EXPORT),
    ],
)
def test_an_edit_reaches_exactly_its_stages(
    repo: Path, edit: Callable[[Path], None], expected: set[str]
) -> None:
    """The stages whose own inputs an edit changes; those after them follow if an output changes."""
    edit(repo)
    try:
        # What `dvc status` asks, without the start of a process.
        with contextlib.chdir(repo), Repo() as dvc:
            assert set(dvc.status()) == expected
    finally:
        _git(repo, "checkout", "--quiet", "--", ".")


def test_a_networks_parameter_runs_it_alone_and_going_back_runs_nothing(repo: Path) -> None:
    _set("conv_deconv.learning_rate", 0.0005)(repo)
    of_network = {f"{stage}@conv_deconv" for stage in ("train", "evaluate", "export")}
    assert _repro(repo) == of_network | {"plot"}
    _git(repo, "checkout", "--quiet", "--", ".")
    # Metrics and reports are back from Git, the network comes from DVC's run-cache.
    assert _repro(repo) == set()
    assert _run(repo, "git", "status", "--porcelain").stdout == ""


def test_an_experiment_in_a_copy_is_logged_in_the_repositorys_store(repo: Path) -> None:
    result = _run(
        repo, sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", "short-tabby",
        "--set-param", "networks=[conv_deconv]", "--set-param", "epochs=2",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    client = MlflowClient(f"sqlite:///{repo / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("pet-segmentation")
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id],
        "tags.`dvc.experiment` = 'short-tabby'",
    )
    assert [run.info.run_name for run in runs] == ["conv_deconv · short-tabby"]
    assert runs[0].data.params["epochs"] == "2"
    assert len(client.get_metric_history(runs[0].info.run_id, "val_loss")) == 2
    assert "test/mean_iou" in runs[0].data.metrics
    head = _run(repo, "git", "rev-parse", "HEAD").stdout.strip()
    assert runs[0].data.tags["dvc.baseline"] == head
    assert _run(repo, "git", "status", "--porcelain").stdout == ""
    shown = _run(repo, sys.executable, "-m", "dvc", "exp", "show", "--json")
    assert "short-tabby" in shown.stdout


def test_a_bad_parameter_stops_the_pipeline_before_it_touches_anything(repo: Path) -> None:
    before = (repo / "metrics" / "unet.json").read_bytes()
    _set("epochs", "40")(repo)
    try:
        result = _run(repo, sys.executable, "-m", "dvc", "repro")
        assert result.returncode == 255
        assert "params.yaml: epochs: '40' is not allowed" in result.stderr
        assert "Traceback" not in result.stderr
        assert (repo / "metrics" / "unet.json").read_bytes() == before
    finally:
        _git(repo, "checkout", "--quiet", "--", ".")
        assert _run(repo, sys.executable, "-m", "dvc", "checkout").returncode == 0
