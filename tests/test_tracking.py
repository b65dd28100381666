import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from mlflow.entities import Run

from stages.params import Params
from stages.records.manifest import Manifest, Split
from stages.runs.contents import evaluation_of, file_md5
from stages.runs.tracking import EvaluationRun, TrainingRun
from tests.stub_stages import write_evaluation

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = Manifest(
    dataset="synthetic_pets/tiny",
    version="1.2.3",
    image_size=128,
    train_image_size=128,
    class_names=["pet", "background", "border"],
    label_names=[],
    species_names=[],
    splits={
        name: Split(examples=count, class_shares={}, shards=[])
        for name, count in (("train", 9), ("validation", 3), ("test", 6))
    },
    other_files={},
)
# The second of three epochs is the best.
HISTORY = [
    {"epoch": 1, "loss": 0.9, "accuracy": 0.5, "val_loss": 0.8, "val_accuracy": 0.6},
    {"epoch": 2, "loss": 0.7, "accuracy": 0.6, "val_loss": 0.5, "val_accuracy": 0.75},
    {"epoch": 3, "loss": 0.6, "accuracy": 0.7, "val_loss": 0.7, "val_accuracy": 0.65},
]
# Trainings of one epoch, each in a process and a folder of its own, which start at one moment: they
# are forked once MLflow is imported, and wait for each other.
TRAININGS = f"""
import os
import sys
from pathlib import Path
from stages.manifest import Manifest
from stages.params import load_params
from stages.runs.tracking import TrainingRun

manifest = Manifest.model_validate_json(sys.argv[1])
params = load_params(Path({str(ROOT / "params.yaml")!r}))
gate, opener = os.pipe()
children = []
for folder in sys.argv[2:]:
    child = os.fork()
    if not child:
        os.close(opener)
        os.chdir(folder)
        os.environ["DVC_EXP_NAME"] = Path(folder).name
        os.read(gate, 1)
        with TrainingRun("unet", params, manifest) as run:
            run.log_epoch({HISTORY[0]}, seconds=2.0, images_per_second=4.5)
        print("trained", flush=True)
        os._exit(0)
    children.append(child)
os.close(opener)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    # Set by the code itself where the user has not, so each test begins without.
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "work" / "metrics").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def root(embedded_store: Path, empty_database: Path) -> Iterator[Path]:
    shutil.copy(empty_database, embedded_store / "mlflow.db")
    yield embedded_store
    assert mlflow.active_run() is None, "a run was left open"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    path = tmp_path_factory.mktemp("models") / "unet.keras"
    keras.Model(images, keras.layers.Conv2D(3, 3, padding="same")(images)).save(path)
    return path


@pytest.fixture
def history() -> Path:
    path = Path("metrics/unet.history.csv")
    rows = [",".join(HISTORY[0])] + [",".join(map(str, row.values())) for row in HISTORY]
    path.write_text("\n".join(rows) + "\n")
    return path


def _train(params: Params, model: Path, history: Path) -> Run:
    with TrainingRun("unet", params, MANIFEST) as run:
        for row in HISTORY:
            run.log_epoch(row, seconds=2.0, images_per_second=4.5)
        run.log_files(model, history)
    return _runs()[0]


def _evaluate(params: Params, model: Path) -> None:
    write_evaluation("unet", 0.8)
    with EvaluationRun("unet", params, MANIFEST, model) as run:
        run.log_results(evaluation_of("unet", Path("metrics")))


def _runs() -> list[Run]:
    """All runs of the project, the newest first."""
    return mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")


def _curve(run: Run, metric: str) -> dict[int, float]:
    points = mlflow.MlflowClient().get_metric_history(run.info.run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def _artifacts(run: Run, folder: str | None = None) -> set[str]:
    return {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, folder)}


def test_a_training_is_one_run_with_a_point_for_each_epoch(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    run = _train(params, model, history)
    assert len(_runs()) == 1
    assert run.info.status == "FINISHED"
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert _curve(run, f"{name}") == {row["epoch"]: row[name] for row in HISTORY}
    assert _curve(run, "speed/epoch_seconds") == {1: 2.0, 2: 2.0, 3: 2.0}
    assert _curve(run, "speed/images_per_second") == {1: 4.5, 2: 4.5, 3: 4.5}
    best = {name: run.data.metrics[f"best_{name}"] for name in ("epoch", "val_loss")}
    assert best == {"epoch": 2, "val_loss": 0.5}
    assert _artifacts(run) >= {"unet.history.csv"}


def test_every_parameter_that_counts_is_logged_flat(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    logged = _train(params, model, history).data.params
    expected = {"network": "unet", "train_examples": 9, "validation_examples": 3}
    expected |= {"test_examples": 6}
    for group in ("augmentation", "loss"):
        values = getattr(params, group).model_dump()
        expected |= {f"{group}.{key}": value for key, value in values.items()}
    expected |= params.unet.model_dump()
    groups = {"augmentation", "loss", "conv_deconv", "unet"}
    top = set(Params.model_fields) - {"networks", "export", *groups}  # `export` comes after it
    expected |= params.model_dump(include=top)
    assert logged == {key: str(value) for key, value in expected.items() if key in logged}
    assert set(logged) >= set(expected)


def test_tags_name_data_stage_commit_and_experiment(
    root: Path, params: Params, model: Path, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(root)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "empty"], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    plain = _train(params, model, history)
    always = {
        "network": "unet",
        "dataset": "synthetic_pets/tiny 1.2.3",
        "dvc.stage": "train@unet",
        "model.md5": file_md5(model),
    }
    assert plain.data.tags.items() >= (always | {"mlflow.source.git.commit": commit}).items()
    assert not {"dvc.experiment", "dvc.baseline"} & set(plain.data.tags)
    assert plain.info.run_name.startswith("unet · ")
    assert plain.inputs is not None
    assert plain.inputs.dataset_inputs[0].dataset.name == "synthetic_pets/tiny 1.2.3"

    monkeypatch.setenv("DVC_EXP_NAME", "dusty-lamb")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "a" * 40)
    experiment = _train(params, model, history)
    assert experiment.info.run_name == "unet · dusty-lamb"
    named = {"dvc.experiment": "dusty-lamb", "dvc.baseline": "a" * 40}
    # The branch may have moved on since the experiment was queued.
    named["mlflow.source.git.commit"] = "a" * 40
    assert experiment.data.tags.items() >= (always | named).items()


def test_a_run_needs_no_git(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    with TrainingRun("unet", params, MANIFEST):
        pass
    assert _runs()[0].info.status == "FINISHED"
    assert capsys.readouterr().err == ""


def test_evaluation_adds_to_the_run_of_the_training(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    trained = _train(params, model, history)
    _evaluate(params, model)
    assert len(_runs()) == 1
    run = _runs()[0]
    assert run.info.run_id == trained.info.run_id
    assert (run.info.status, run.info.end_time) == ("FINISHED", trained.info.end_time)
    figures = json.loads(Path("metrics/unet.json").read_text())
    assert run.data.metrics["test/accuracy"] == 0.8
    assert run.data.metrics["test/mean_iou"] == figures["mean_iou"]
    ends = [run.data.metrics[f"test_{end}/mean_iou"] for end in ("low", "high")]
    assert ends == figures["intervals"]["mean_iou"]
    assert set(_curve(run, "loss")) == {1, 2, 3}
    assert _artifacts(run) >= {"unet.history.csv", "unet.json", "unet.images.csv"}
    pictures = {"pictures/unet.worst.png", "pictures/unet.best.png"}
    assert _artifacts(run, "pictures") == pictures


def test_evaluation_restores_a_run_that_the_store_lacks(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    _evaluate(params, model)
    _evaluate(params, model)
    assert len(_runs()) == 1
    run = _runs()[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["restored"] == "true"
    assert run.data.params["learning_rate"] == str(params.unet.learning_rate)
    assert _curve(run, "val_loss") == {1: 0.8, 2: 0.5, 3: 0.7}
    assert run.data.metrics["best_epoch"] == 2
    assert run.data.metrics["test/accuracy"] == 0.8
    assert _artifacts(run) >= {"unet.history.csv", "unet.json", "pictures"}
    assert mlflow.keras.load_model(f"runs:/{run.info.run_id}/unet").count_params() == 84


def test_a_run_is_restored_without_a_history(root: Path, params: Params, model: Path) -> None:
    _evaluate(params, model)
    assert {name.split("/")[0] for name in _runs()[0].data.metrics} == {
        "test",
        "test_low",
        "test_high",
    }


def test_a_network_that_is_measured_in_another_way_is_another_run(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    trained = _train(params, model, history)
    _evaluate(params, model)
    _evaluate(params.model_copy(update={"test_time_flip": True}), model)
    runs = {run.data.params["test_time_flip"]: run for run in _runs()}
    assert set(runs) == {"False", "True"}
    assert runs["False"].info.run_id == trained.info.run_id
    assert runs["True"].data.tags["restored"] == "true"
    assert all("test/accuracy" in run.data.metrics for run in runs.values())


def test_the_load_of_the_machine_is_a_point_for_each_epoch(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    run = _train(params, model, history)
    for name in ("cpu_utilization_percentage", "system_memory_usage_percentage"):
        curve = _curve(run, f"system/{name}")
        assert set(curve) == {1, 2, 3}
        assert all(0 <= value <= 100 for value in curve.values())


def test_the_network_has_an_example_to_try_it_out_with(
    root: Path, params: Params, model: Path, history: Path
) -> None:
    Path("data/records").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    np.savez("data/records/examples.npz", test_images=picture[None])
    uri = f"runs:/{_train(params, model, history).info.run_id}/unet"
    loaded = mlflow.pyfunc.load_model(uri)
    np.testing.assert_array_equal(loaded.input_example, picture[None].astype(np.float32))
    assert loaded.predict(loaded.input_example).shape == (1, 8, 8, 3)
    served = mlflow.models.convert_input_example_to_serving_input(loaded.input_example)
    assert served


def test_a_run_whose_network_was_not_logged_is_not_taken_for_a_whole_one(
    root: Path,
    params: Params,
    model: Path,
    history: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    # An artifact store that can be read only: root may write everywhere, so a file is in its place.
    (root / "mlartifacts").touch()
    run = _train(params, model, history)
    assert capsys.readouterr().err.count("\n") == 1
    assert "model.md5" not in run.data.tags
    (root / "mlartifacts").unlink()
    _evaluate(params, model)
    newest = _runs()[0]
    assert newest.info.run_id != run.info.run_id
    assert newest.data.tags["restored"] == "true"


def test_the_logged_model_loads_and_predicts_the_same(
    root: Path, params: Params, model: Path, history: Path, capfd: pytest.CaptureFixture
) -> None:
    uri = f"runs:/{_train(params, model, history).info.run_id}/unet"
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    expected = keras.models.load_model(model)(images).numpy()
    np.testing.assert_array_equal(mlflow.keras.load_model(uri)(images).numpy(), expected)
    generic = mlflow.pyfunc.load_model(uri)
    assert str(generic.metadata.signature.inputs) == "[Tensor('float32', (-1, 8, 8, 3))]"
    np.testing.assert_allclose(generic.predict(images), expected, rtol=1e-5, atol=1e-4)
    requirements = Path(mlflow.pyfunc.get_model_dependencies(uri)).read_text().split()
    assert {"keras", "mlflow", "numpy", "tensorflow"} == {
        line.split("==")[0] for line in requirements
    }
    assert "WARNING mlflow" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_training_that_fails_is_marked(
    root: Path, params: Params, error: type[BaseException], status: str
) -> None:
    def training() -> None:
        with TrainingRun("unet", params, MANIFEST) as run:
            run.log_epoch(HISTORY[0], seconds=1.0, images_per_second=1.0)
            raise error

    with pytest.raises(error):
        training()
    assert _runs()[0].info.status == status
    assert _curve(_runs()[0], "loss") == {1: 0.9}


def test_the_users_store_wins_and_keeps_its_files_in_the_repository(
    root: Path,
    empty_database: Path,
    params: Params,
    model: Path,
    history: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(empty_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    run = _train(params, model, history)
    assert mlflow.get_tracking_uri().endswith("other.db")
    assert run.info.artifact_uri.startswith((root / "mlartifacts").as_uri())
    assert not mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_experiment_by_name(
        "pet-segmentation"
    )


def test_runs_that_start_at_once_on_a_fresh_store_are_all_logged_at_the_root(
    embedded_store: Path, tmp_path: Path
) -> None:
    # As `dvc exp run --temp` and the queue: each in a copy of its own.
    copies = [tmp_path / ".dvc" / "tmp" / "exps" / f"tmp{number}" for number in range(8)]
    for copy in copies:
        copy.mkdir(parents=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    result = subprocess.run(
        [sys.executable, "-c", TRAININGS, MANIFEST.model_dump_json(), *map(str, copies)],
        env=inherited | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(embedded_store)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (result.stdout, result.stderr) == ("trained\n" * 8, "")
    mlflow.set_tracking_uri(f"sqlite:///{embedded_store / 'mlflow.db'}")
    runs = _runs()
    assert {run.data.tags["dvc.experiment"] for run in runs} == {copy.name for copy in copies}
    assert all(_curve(run, "loss") == {1: 0.9} for run in runs)
    assert all(not list(copy.iterdir()) for copy in copies)


class _FailingServer(BaseHTTPRequestHandler):
    """Answers every request with an error."""

    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815  http.server's name

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def failing_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _FailingServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "trouble",
    ["no server", "server error", "no database", "read-only database", "a folder", "no folder"],
)
def test_a_store_that_cannot_be_used_is_a_warning_and_costs_no_time(
    trouble: str,
    embedded_store: Path,
    empty_database: Path,
    failing_server: str,
    params: Params,
    model: Path,
    history: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    if trouble == "no server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    elif trouble == "server error":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", failing_server)
    elif trouble == "read-only database":
        # Root may write to any file, so SQLite is told to.
        shutil.copy(empty_database, embedded_store / "mlflow.db")
        uri = f"sqlite:///file:{embedded_store / 'mlflow.db'}?mode=ro&uri=true"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    elif trouble == "no database":
        (embedded_store / "mlflow.db").write_text("this is no database" * 100)
    elif trouble == "a folder":
        (embedded_store / "mlflow.db").mkdir()
    else:
        (embedded_store / ".dvc").touch()
    start = time.monotonic()
    epochs = 0
    with TrainingRun("unet", params, MANIFEST) as run:
        for row in HISTORY:
            run.log_epoch(row, seconds=1.0, images_per_second=1.0)
            epochs += 1
        run.log_files(model, history)
    assert epochs == len(HISTORY)
    assert time.monotonic() - start < 15
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert warning.startswith("warning: MLflow at ")
    assert "secret" not in warning


def test_a_store_that_breaks_in_the_middle_is_one_warning(
    root: Path,
    params: Params,
    model: Path,
    history: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    with TrainingRun("unet", params, MANIFEST) as run:
        run.log_epoch(HISTORY[0], seconds=1.0, images_per_second=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(mlflow, "log_metrics", broken)
            run.log_epoch(HISTORY[1], seconds=1.0, images_per_second=1.0)
        run.log_epoch(HISTORY[2], seconds=1.0, images_per_second=1.0)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert warning.endswith("disk full\n")
    assert _curve(_runs()[0], "loss") == {1: 0.9}
    assert _runs()[0].info.status == "FINISHED"


def test_what_the_user_sets_for_requests_is_kept(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with TrainingRun("unet", params, MANIFEST):
        pass
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "15"
