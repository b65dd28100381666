import contextlib
import os
import shutil
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import Mock

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from stages.params import Params
from stages.runs import run as runs
from stages.runs.run import file_md5, read_history, training_params
from stages.runs.tracking import TrainingRun, log_evaluation
from tests import stub_stages

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = stub_stages.manifest()
LOSSES = {1: 0.6, 2: 0.5, 3: 0.6}  # validation losses of the stub's history: the second is best
MODEL, HISTORY = Path("unet.keras"), Path("metrics/unet.history.csv")


@pytest.fixture(autouse=True)
def root(embedded_store: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository's root with an empty store, and in a working folder of its own a history and a
    file in the place of a network, which is not logged.
    """
    shutil.copy(empty_database, embedded_store / "mlflow.db")
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")  # what the code sets itself is taken back after the test
        monkeypatch.delenv(name)
    (embedded_store / "work" / "metrics").mkdir(parents=True)
    monkeypatch.chdir(embedded_store / "work")
    monkeypatch.setattr(runs, "load_model", lambda path: None)
    MODEL.write_bytes(b"a network")
    stub_stages.write_history("unet", 3)
    return embedded_store


def _train(params: Params) -> str:
    """Logs a whole training; returns the run's id, or "" if it could not be recorded."""
    with TrainingRun("unet", params, MANIFEST) as run:
        for row in read_history(HISTORY):
            run.log_epoch(row, seconds=2.0, images_per_second=4.5)
        run.log_files(MODEL, HISTORY)
    return run.run_id


def _runs() -> list[Run]:
    """All runs of the project, the newest first."""
    return mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")


def _curve(run: Run, metric: str) -> dict[int, float]:
    points = MlflowClient().get_metric_history(run.info.run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def _artifacts(run: Run, folder: str | None = None) -> set[str]:
    return {file.path for file in MlflowClient().list_artifacts(run.info.run_id, folder)}


def test_a_network_is_one_run_with_curves_load_parameters_and_test_metrics(params: Params) -> None:
    _train(params)
    (run,) = _runs()
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("unet · ")
    tags = {"network": "unet", "dataset": "synthetic_pets 1.2.3", "dvc.stage": "train@unet"}
    assert run.data.tags.items() >= (tags | {"model.md5": file_md5(MODEL)}).items()
    assert not {"dvc.experiment", "dvc.baseline", "restored"} & set(run.data.tags)
    assert _curve(run, "val_loss") == pytest.approx(LOSSES)
    assert _curve(run, "speed/epoch_seconds") == dict.fromkeys(LOSSES, 2.0)
    assert _curve(run, "speed/images_per_second") == dict.fromkeys(LOSSES, 4.5)
    for name in ("cpu_utilization_percentage", "system_memory_usage_percentage"):
        load = _curve(run, f"system/{name}")
        assert set(load) == {1, 2, 3}
        assert all(0 <= value <= 100 for value in load.values())
    best = {name: run.data.metrics[f"best_{name}"] for name in ("epoch", "val_loss")}
    assert best == {"epoch": 2, "val_loss": 0.5}
    assert run.inputs is not None
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, len(dataset.digest)) == ("synthetic_pets 1.2.3", 32)
    expected = {"network": "unet", "train_examples": 9, "validation_examples": 3}
    expected |= {"test_examples": 40} | params.unet.model_dump()
    for group in ("own", "augmentation", "loss"):
        values = getattr(params, group).model_dump()
        expected |= {f"{group}.{key}": value for key, value in values.items()}
    groups = {"networks", "export", "own", "augmentation", "loss", "conv_deconv", "unet"}
    expected |= params.model_dump(include=set(Params.model_fields) - groups)
    assert run.data.params == {key: str(value) for key, value in expected.items()}
    results = stub_stages.write_evaluation("unet", 0.8)
    for _ in range(2):
        log_evaluation("unet", params, MANIFEST, MODEL)
    (evaluated,) = _runs()
    assert (evaluated.info.status, evaluated.info.end_time) == ("FINISHED", run.info.end_time)
    metrics = evaluated.data.metrics
    assert metrics["test/accuracy"] == results.accuracy == pytest.approx(0.8, abs=1e-3)
    assert metrics["test/mean_iou"] == results.mean_iou
    ends = tuple(metrics[f"test_{end}/mean_iou"] for end in ("low", "high"))
    assert ends == results.intervals.mean_iou
    assert "test/boundary_f" not in metrics  # undefined
    assert len(_curve(evaluated, "test/accuracy")) == 1
    assert _artifacts(run) == {"unet.history.csv", "unet.json", "unet.images.csv", "images"}
    assert _artifacts(run, "images") == {"images/unet.worst.png", "images/unet.best.png"}


def test_a_network_that_is_evaluated_in_another_way_is_another_run(params: Params) -> None:
    """The store lacks the second run: it is restored from the files."""
    trained = _train(params)
    stub_stages.write_evaluation("unet", 0.8)
    for flip in (params.test_time_flip, *2 * [not params.test_time_flip]):
        log_evaluation("unet", params.model_copy(update={"test_time_flip": flip}), MANIFEST, MODEL)
    found = {run.data.params["test_time_flip"]: run for run in _runs()}
    assert len(found) == len(_runs()) == 2
    assert found[str(params.test_time_flip)].info.run_id == trained
    restored = found[str(not params.test_time_flip)]
    assert (restored.info.status, restored.data.tags["restored"]) == ("FINISHED", "true")
    assert _curve(restored, "val_loss") == pytest.approx(LOSSES)
    assert restored.data.metrics["best_epoch"] == 2
    assert all("test/accuracy" in run.data.metrics for run in found.values())


def test_a_run_whose_files_were_not_logged_is_not_taken_for_a_complete_one(
    root: Path, params: Params, capsys: pytest.CaptureFixture
) -> None:
    # An artifact store that is read-only: root may write everywhere, so a file is in its place.
    (root / "mlartifacts").touch()
    assert _train(params) == ""
    (run,) = _runs()
    stub_stages.write_evaluation("unet", 0.8)
    log_evaluation("unet", params, MANIFEST, MODEL)
    assert capsys.readouterr().err.count("\n") == 2
    assert len(_runs()) == 1
    assert "model.md5" not in run.data.tags
    (root / "mlartifacts").unlink()
    log_evaluation("unet", params, MANIFEST, MODEL)
    assert _runs()[0].info.run_id != run.info.run_id
    assert "test/accuracy" in _runs()[0].data.metrics


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_training_that_ends_early_is_marked_and_continued_in_its_run(
    params: Params, error: type[BaseException], status: str
) -> None:
    rows = read_history(HISTORY)
    with contextlib.suppress(error), TrainingRun("unet", params, MANIFEST) as run:
        run.log_epoch(rows[0], seconds=1.0, images_per_second=1.0)
        raise error
    run_id = _runs()[0].info.run_id
    assert _runs()[0].info.status == status
    with TrainingRun("unet", params, MANIFEST, run_id, rows[:1]) as run:
        assert mlflow.get_run(run_id).info.status == "RUNNING"
        run.log_epoch(rows[1], seconds=1.0, images_per_second=1.0)
    assert [found.info.run_id for found in _runs()] == [run_id]
    assert _runs()[0].info.status == "FINISHED"
    assert set(_curve(_runs()[0], "loss")) == {1, 2}
    MlflowClient().delete_run(run_id)
    with TrainingRun("unet", params, MANIFEST, run_id, rows[:2]) as run:
        run.log_epoch(rows[2], seconds=1.0, images_per_second=1.0)
        assert run.run_id != run_id
    assert set(_curve(_runs()[0], "loss")) == {1, 2, 3}


def test_the_users_store_experiment_and_patience_win(
    root: Path, empty_database: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, root / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'other.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cats")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with TrainingRun("unet", params, MANIFEST) as run:
        found = mlflow.get_run(run.run_id)
    assert mlflow.get_experiment(found.info.experiment_id).name == "cats"
    assert mlflow.get_tracking_uri().endswith("other.db")
    assert found.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert not MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_experiment_by_name("cats")
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "15"


def test_runs_that_start_at_once_on_a_fresh_store_are_all_logged_at_the_root(
    root: Path, params: Params, processes: ForkServerContext
) -> None:
    """As `dvc exp run --temp` and the queue: each in a copy of its own, with DVC_ROOT."""
    command = [sys.executable, "-c", "from stages.stage import ROOT; print(ROOT)"]
    environment = os.environ | {"DVC_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output(command, env=environment, text=True) == f"{root}\n"
    (root / "mlflow.db").unlink()
    copies = [root / ".dvc" / "tmp" / "exps" / f"tmp{number}" for number in range(8)]
    gate, trainings = processes.Barrier(len(copies)), []
    for copy in copies:
        copy.mkdir(parents=True)
        arguments = (copy, root, params, gate)
        trainings.append(processes.Process(target=stub_stages.log_training_in, args=arguments))
        trainings[-1].start()
    for training in trainings:
        training.join(300)
        assert training.exitcode == 0
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    found = _runs()
    assert {run.data.tags["dvc.experiment"] for run in found} == {copy.name for copy in copies}
    assert all(_curve(run, "loss") == {1: 0.9} for run in found)
    assert all(not list(copy.iterdir()) for copy in copies)


@pytest.mark.parametrize("trouble", ["no server", "no database", "read-only database", "no folder"])
def test_a_store_that_is_unavailable_is_one_warning_and_costs_no_time(
    trouble: str, root: Path, params: Params, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    database = root / "mlflow.db"
    if trouble == "no database":
        database.write_text("not a database" * 100)
    elif trouble == "no folder":
        (root / ".dvc").touch()
    else:  # root may write to any file, so SQLite is told to only read
        read_only = f"sqlite:///file:{database}?mode=ro&uri=true"
        store = "http://user:secret@127.0.0.1:9" if trouble == "no server" else read_only
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    start = time.monotonic()
    assert _train(params) == ""
    assert time.monotonic() - start < 15
    log_evaluation("unet", params, MANIFEST, MODEL)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert all(line.startswith("warning: MLflow at ") for line in warnings)
    assert "secret" not in "".join(warnings)


def test_a_store_that_breaks_in_the_middle_is_one_warning(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = read_history(HISTORY)
    with TrainingRun("unet", params, MANIFEST) as run:
        run.log_epoch(rows[0], seconds=1.0, images_per_second=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(mlflow, "log_metrics", Mock(side_effect=OSError("disk full")))
            run.log_epoch(rows[1], seconds=1.0, images_per_second=1.0)
        run.log_epoch(rows[2], seconds=1.0, images_per_second=1.0)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "failed: disk full; `make sync`" in warning
    assert _curve(_runs()[0], "loss") == {1: 1.0}
    assert _runs()[0].info.status == "FINISHED"


def test_the_logged_parameters_are_those_that_the_stages_depend_on(params: Params) -> None:
    """dvc.lock, which sync reads, has every parameter that a live run logs."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = {name for stage in ("prepare", "train", "evaluate") for name in stages[stage]["params"]}
    for network in ("conv_deconv", "unet"):
        own = params.network(network).model_dump()
        shared = set(training_params(network, params)) - set(own)
        assert {key.split(".")[0] for key in shared} == names - {"${item.network}"}
