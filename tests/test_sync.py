"""`make sync` on real Git, DVC and MLflow: a store gets the runs of all that a repository has.

The stages are stubs (tests/stub_stages.py) of the real names, parameters and outputs.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import mlflow
import pytest
import requests
import yaml
from mlflow.entities import Dataset, Run

from stages.params import Params, load_params
from stages.runs import tracking
from stages.runs.contents import counting_params, evaluation_of, file_md5, model_id, read_history
from stages.runs.registry import register
from stages.runs.sync import Trained, sync, trained_networks
from stages.runs.tracking import EvaluationRun, TrainingRun
from stages.stage import StageError
from tests import stub_stages

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
FIRST = {"conv_deconv", "unet"}


def _ok(folder: Path, *command: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    identity = {f"GIT_{who}_NAME": "Test" for who in ("AUTHOR", "COMMITTER")}
    identity |= {f"GIT_{who}_EMAIL": "test@localhost" for who in ("AUTHOR", "COMMITTER")}
    environment = kept | identity | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _dvc(folder: Path, *arguments: str) -> str:
    return _ok(folder, PYTHON, "-m", "dvc", *arguments)


def _pipeline() -> dict[str, Any]:
    """The stages of dvc.yaml up to `evaluate` with commands that take no time."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    stages = {name: pipeline["stages"][name] for name in ("prepare", "train", "evaluate")}
    for name, stage in stages.items():
        network = "" if name == "prepare" else " ${item.network}"
        stage["cmd"] = f"{PYTHON} -m tests.stub_stages {name}{network}"
        stage["deps"] = [dep for dep in stage["deps"] if not dep.startswith("stages/")]
        kinds = {kind: stage.get(kind, []) for kind in ("outs", "metrics", "plots")}
        for kind, outs in kinds.items():
            written = [
                out for out in outs if "summary" not in str(out) and "examples" not in str(out)
            ]
            stage.pop(kind, None)
            if written:
                stage[kind] = written
    stages["prepare"]["deps"] = ["network.keras"]
    return {"stages": stages}


def _commit(folder: Path, message: str) -> None:
    _ok(folder, "git", "add", "--all")
    _ok(folder, "git", "commit", "--quiet", "--message", message)


def _set(folder: Path, **groups: dict[str, Any]) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for name, values in groups.items():
        params[name].update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results on `main`, better ones on a branch of a remote, an experiment, and broken branches.

    `main` has weight_decay as a whole number, as a user may write it.
    """
    folder = tmp_path_factory.mktemp("sync") / "repository"
    folder.mkdir()
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    network = keras.Model(images, keras.layers.Conv2D(3, 3, padding="same")(images))
    network.save(folder / "network.keras")
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"epochs": 3, "weight_decay": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "dvc.yaml").write_text(yaml.safe_dump(_pipeline(), sort_keys=False))
    (folder / ".gitignore").write_text("/mlflow.db*\n/mlartifacts/\n")
    _ok(folder, "git", "init", "--quiet", "--initial-branch=main")
    _dvc(folder, "init", "--quiet")
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    _dvc(folder, "repro", "--quiet")
    _commit(folder, "Results")
    _dvc(folder, "exp", "run", "--quiet", "--name", "gutsy-yawl", "-S", "unet.learning_rate=0.02")
    _ok(folder, "git", "checkout", "--quiet", "--force", "-b", "faster", "main")
    _set(folder, unet={"learning_rate": 0.03})
    _dvc(folder, "repro", "--quiet")
    _commit(folder, "Learn faster")
    _ok(folder, "git", "checkout", "--quiet", "--orphan", "pages")
    _ok(folder, "git", "rm", "--quiet", "-r", "--cached", ".")
    (folder / "page").write_text("no pipeline")
    _ok(folder, "git", "add", "page")
    _ok(folder, "git", "commit", "--quiet", "--message", "Pages")
    _ok(folder, "git", "checkout", "--quiet", "--force", "-b", "broken", "main")
    (folder / "dvc.lock").write_text("stages: [")
    _commit(folder, "Break")
    _ok(folder, "git", "checkout", "--quiet", "--force", "main")
    _ok(folder, "git", "update-ref", "refs/remotes/origin/faster", "faster")
    _ok(folder, "git", "branch", "--quiet", "-D", "faster")
    _dvc(folder, "checkout", "--quiet")
    return folder


def _use(patch: pytest.MonkeyPatch, repository: Path, store: Path, artifacts: Path) -> None:
    patch.setattr(tracking, "ROOT", repository)
    patch.setattr(tracking, "STORE", store)
    patch.setattr(tracking, "ARTIFACTS", artifacts)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI"):
        patch.delenv(name, raising=False)


@pytest.fixture
def root(
    embedded_store: Path,
    repository: Path,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The repository with an empty store; the process is elsewhere."""
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(empty_database, store / "mlflow.db")
    _use(monkeypatch, repository, store / "mlflow.db", store / "mlartifacts")
    monkeypatch.chdir(tmp_path)
    return repository


class Synced(NamedTuple):
    """A store that was filled once, and what was printed; to be copied."""

    database: Path
    artifacts: Path
    printed: str


@pytest.fixture(scope="module")
def synced(
    repository: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Synced:
    folder = tmp_path_factory.mktemp("synced")
    database, artifacts = folder / "mlflow.db", folder / "mlartifacts"
    shutil.copy(empty_database, database)
    printed, previous = io.StringIO(), mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        _use(patch, repository, database, artifacts)
        sync()
    mlflow.set_tracking_uri(previous)
    return Synced(database, artifacts, printed.getvalue())


@pytest.fixture
def filled(root: Path, synced: Synced, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository with a store that has all its runs."""
    shutil.copy(synced.database, tracking.STORE)
    # The database says where its files are.
    monkeypatch.setattr(tracking, "ARTIFACTS", synced.artifacts)
    mlflow.set_tracking_uri(f"sqlite:///{tracking.STORE}")
    return root


def _runs() -> dict[str, Run]:
    """The project's runs by name, without the commit in it."""
    runs = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    named = {" ".join(str(run.info.run_name).split()[:3]): run for run in runs}
    assert len(named) == len(runs)
    return named


def _dataset(run: Run) -> Dataset:
    assert run.inputs is not None
    return run.inputs.dataset_inputs[0].dataset


def _dump() -> tuple[list[str], list[str]]:
    """All that a store has, rows and files."""
    connection = sqlite3.connect(tracking.STORE)
    rows = list(connection.iterdump())
    connection.close()
    files = [f"{file_md5(path)} {path}" for path in tracking.ARTIFACTS.rglob("*") if path.is_file()]
    return rows, sorted(files)


def test_all_that_dvc_has_is_in_the_store_and_twice_gives_the_same(
    filled: Path, synced: Synced, capsys: pytest.CaptureFixture
) -> None:
    runs = _runs()
    # Conv-Deconv is the same everywhere, so it is one run, of the first branch that has it.
    assert set(runs) == {
        "conv_deconv · main",
        "unet · origin/faster",
        "unet · main",
        "unet · gutsy-yawl",
    }
    assert synced.printed.count("added: ") == 4
    assert "skipped: pages: it has no params.yaml" in synced.printed
    assert "skipped: broken: its dvc.lock is not one of this pipeline" in synced.printed
    assert synced.printed.splitlines()[-1].endswith(
        "4 added, 0 completed, 0 there already, 2 skipped"
    )
    before = _dump()
    sync()
    second = capsys.readouterr()
    assert second.err == ""
    assert "added: " not in second.out
    assert second.out.splitlines()[-1].endswith("0 added, 0 completed, 4 there already, 2 skipped")
    assert _dump() == before


def test_a_restored_run_has_what_its_revision_has(filled: Path) -> None:
    root = filled
    runs = _runs()
    baseline = _ok(root, "git", "rev-parse", "main").strip()
    experiment = runs["unet · gutsy-yawl"]
    assert experiment.data.tags["dvc.experiment"] == "gutsy-yawl"
    assert experiment.data.tags["dvc.baseline"] == baseline
    assert experiment.data.tags["mlflow.source.git.commit"] == baseline
    assert experiment.data.tags["dvc.stage"] == "train@unet"
    rates = {name: run.data.params["learning_rate"] for name, run in runs.items()}
    committed = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert rates == {
        "conv_deconv · main": str(committed["conv_deconv"]["learning_rate"]),
        "unet · origin/faster": "0.03",
        "unet · main": str(committed["unet"]["learning_rate"]),
        "unet · gutsy-yawl": "0.02",
    }
    commit = _ok(root, "git", "rev-parse", "origin/faster").strip()
    faster = runs["unet · origin/faster"]
    assert faster.data.tags["mlflow.source.git.commit"] == commit
    assert faster.info.run_name == f"unet · origin/faster {commit[:7]}"
    seconds = int(_ok(root, "git", "log", "-1", "--format=%ct", "origin/faster"))
    assert (faster.info.start_time, faster.info.end_time) == (seconds * 1000, seconds * 1000)
    assert faster.info.status == "FINISHED"
    client = mlflow.MlflowClient()
    losses = {
        point.step: point.value
        for point in client.get_metric_history(faster.info.run_id, "val_loss")
    }
    assert losses == {1: 0.6, 2: 0.5, 3: 0.6}
    assert faster.data.metrics["best_epoch"] == 2
    assert faster.data.metrics["test/accuracy"] == 0.8
    low, high = (faster.data.metrics[f"test_{end}/mean_iou"] for end in ("low", "high"))
    assert low < faster.data.metrics["test/mean_iou"] < high
    dataset = _dataset(faster)
    assert dataset.name == "synthetic_pets 1.2.3"
    files = {file.path for file in client.list_artifacts(faster.info.run_id)}
    assert files >= {"unet.history.csv", "unet.json", "unet.images.csv", "pictures"}
    uri = f"runs:/{faster.info.run_id}/unet"
    assert mlflow.keras.load_model(uri).count_params() == 84
    assert mlflow.pyfunc.load_model(uri).input_example.shape == (1, 8, 8, 3)


def test_a_restored_run_has_the_parameters_dataset_and_figures_that_a_live_one_has(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    params = load_params(root / "params.yaml")
    manifest = stub_stages.manifest(test="test")
    with EvaluationRun("unet", params, manifest, root / "models/unet.keras") as run:
        run.log_results(evaluation_of("unet", Path("metrics")))
    (live,) = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    mlflow.delete_run(live.info.run_id)
    sync()
    restored = _runs()["unet · main"]
    assert restored.data.params == live.data.params
    assert restored.data.metrics == live.data.metrics
    assert _dataset(restored).digest == _dataset(live).digest
    same = ("network", "dataset", "dvc.stage", "model.md5", "evaluation.md5")
    assert {key: restored.data.tags[key] for key in same} == {
        key: live.data.tags[key] for key in same
    }


def test_a_run_that_is_there_is_completed_and_not_made_again(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The server went down after the training: the run lacks its test figures."""
    monkeypatch.chdir(root)
    params = load_params(root / "params.yaml")
    manifest = stub_stages.manifest(test="test")
    with EvaluationRun("unet", params, manifest, root / "models/unet.keras"):
        pass
    (before,) = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    sync()
    assert f"completed: {before.info.run_name} has now its test figures" in capsys.readouterr().out
    run = mlflow.get_run(before.info.run_id)
    assert run.data.metrics["test/accuracy"] == pytest.approx(0.52)
    assert (run.info.start_time, run.info.end_time) == (
        before.info.start_time,
        before.info.end_time,
    )
    assert len(_runs()) == 4


def test_what_the_workspace_has_not_committed_is_a_run_too_and_says_what_it_ran_with(
    filled: Path,
) -> None:
    """params.yaml was edited again since: the lock says what the network was trained with."""
    root = filled
    model = root / "models" / "unet.keras"
    kept = model.read_bytes()
    try:
        _set(root, unet={"learning_rate": 0.01})
        _dvc(root, "repro", "--quiet")
        _set(root, unet={"learning_rate": 0.9})
        sync()
        rates = {
            run.data.params["learning_rate"]
            for name, run in _runs().items()
            if name.startswith("unet")
        }
        assert rates == {"0.03", "0.002", "0.02", "0.01"}
    finally:
        _ok(root, "git", "checkout", "--quiet", "--force", "main")
        model.write_bytes(kept)


def test_a_network_that_nobody_has_any_more_is_said_and_comes_later(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    cache = root / ".dvc" / "cache"
    hidden = cache.with_name("hidden")
    cache.rename(hidden)
    model = root / "models" / "unet.keras"
    kept = model.read_bytes()
    model.unlink()
    try:
        sync()
        out = capsys.readouterr().out
        assert out.count("models/unet.keras is in neither the cache nor the remote") == 3
        run = _runs()["unet · main"]
        assert run.data.metrics["test/accuracy"] == pytest.approx(0.52)
        assert model_id(run) is None
        before = _dump()
        sync()
        assert _dump() == before
        assert capsys.readouterr().out.count("incomplete: ") == 4
    finally:
        model.write_bytes(kept)
        shutil.rmtree(cache, ignore_errors=True)
        hidden.rename(cache)
    sync()
    assert "completed: unet · gutsy-yawl has now its network" in capsys.readouterr().out
    run = _runs()["unet · main"]
    assert model_id(run)
    assert run.info.start_time == run.info.end_time


def test_the_champion_is_better_beyond_doubt(
    filled: Path, synced: Synced, capsys: pytest.CaptureFixture
) -> None:
    out = synced.printed
    client = mlflow.MlflowClient()
    assert {model.name for model in client.search_registered_models()} == {
        f"pet-segmentation-{name}" for name in FIRST
    }
    name = "pet-segmentation-unet"
    champion = client.get_model_version_by_alias(name, "champion")
    assert champion.run_id == _runs()["unet · origin/faster"].info.run_id
    versions = {
        int(version.version): version for version in client.search_model_versions(f"name='{name}'")
    }
    assert versions[1].description == "there is no other"
    verdicts = [versions[number].tags["verdict"] for number in (1, 2, 3)]
    assert verdicts == ["champion", "champion", "no champion"]
    assert f"{name} version 2 is the champion: mean IoU +0." in out
    assert f"{name} version 3 does not replace the champion: mean IoU -0." in out
    assert "against version 2, paired over 40 test pictures" in str(versions[3].description)
    client.set_registered_model_alias(name, "champion", "1")
    run_id = str(champion.run_id)
    # As if the server had gone down between the registration and the verdict.
    client.delete_tag(run_id, "registry.version")
    client.delete_model_version_tag(name, "2", "verdict")
    sync()
    assert f"{name} version 2 is the champion: mean IoU +0." in capsys.readouterr().out
    assert client.get_model_version_by_alias(name, "champion").run_id == run_id
    assert len(client.search_model_versions(f"name='{name}'")) == 3
    # As if it had gone down a moment later.
    client.delete_tag(run_id, "registry.version")
    sync()
    assert "1 completed" in capsys.readouterr().out
    assert client.get_run(run_id).data.tags["registry.version"] == f"{name} 2"
    # Or between the alias and the verdict.
    client.delete_tag(run_id, "registry.version")
    client.delete_model_version_tag(name, "2", "verdict")
    sync()
    assert f"{name} version 2 is the champion: there is no other" in capsys.readouterr().out
    assert mlflow.keras.load_model(f"models:/{name}@champion").count_params() == 84


@pytest.mark.parametrize(
    ("split", "flip", "reason"),
    [("b", False, "on another test split"), ("test", True, "with another test_time_flip")],
)
def test_a_version_that_was_measured_otherwise_is_no_champion(
    filled: Path, split: str, flip: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = filled
    monkeypatch.chdir(root)
    params = load_params(root / "params.yaml").model_copy(update={"test_time_flip": flip})
    champion = mlflow.MlflowClient().get_model_version_by_alias("pet-segmentation-unet", "champion")
    manifest = stub_stages.manifest(test=split)
    # Another network, and better in every picture.
    model, metrics = tracking.STORE.parent / "unet.keras", tracking.STORE.parent
    shutil.copy(root / "network.keras", model)
    monkeypatch.setattr(stub_stages, "METRICS", metrics)
    stub_stages.write_evaluation("unet", 0.95)
    evaluation = evaluation_of("unet", metrics)
    with EvaluationRun("unet", params, manifest, model) as run:
        run.log_results(evaluation)
        line = register(run.run, evaluation.images, manifest)
        assert register(run.run, evaluation.images, manifest) == ""
    assert f"version 4 does not replace the champion: version 2 was measured {reason}" in line
    assert "set the alias by hand" in line
    after = mlflow.MlflowClient().get_model_version_by_alias("pet-segmentation-unet", "champion")
    assert after.version == champion.version


class _Server:
    """A real `mlflow server` with a database and an artifact store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [
            PYTHON, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "mlartifacts"),
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            # In a group of its own, since the server has a child that answers.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
                env={key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
                | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[_Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    server = _Server(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    # The store is the server's, for `_dump`.
    monkeypatch.setattr(tracking, "STORE", folder / "mlflow.db")
    monkeypatch.setattr(tracking, "ARTIFACTS", folder / "mlartifacts")
    server.start()
    yield server
    server.kill()


def test_a_server_that_dies_costs_no_training_and_gets_all_runs_when_it_is_back(
    root: Path,
    server: _Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it is gone for good
    params = load_params(root / "params.yaml")
    manifest = stub_stages.manifest(test="test")
    model, history = root / "models/unet.keras", root / "metrics/unet.history.csv"
    rows = read_history(history)
    evaluation = evaluation_of("unet", Path("metrics"))

    def train_and_evaluate(die: bool) -> None:
        with TrainingRun("unet", params, manifest) as run:
            for row in rows:
                run.log_epoch(row, seconds=1.0, images_per_second=1.0)
                if die:
                    server.kill()
            run.log_files(model, history)
        with EvaluationRun("unet", params, manifest, model) as measured:
            measured.log_results(evaluation)
            measured.attempt(lambda: register(measured.run, evaluation.images, manifest))

    train_and_evaluate(die=True)
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(" does not")[0] for line in warnings] == [
        f"warning: MLflow at {server.uri}"
    ] * 2
    server.start()
    sync()
    assert "4 added" in capsys.readouterr().out
    runs = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    # What the server had got of the training that it did not live to see the end of is still there.
    assert len(runs) == 5
    restored = next(run for run in runs if str(run.info.run_name).startswith("unet · main"))
    assert restored.data.metrics["test/accuracy"] == pytest.approx(0.52)
    assert str(restored.info.artifact_uri).startswith("mlflow-artifacts:/")
    client = mlflow.MlflowClient()
    points = client.get_metric_history(restored.info.run_id, "val_loss")
    assert [point.step for point in points] == [1, 2, 3]
    name = "pet-segmentation-unet"
    assert client.get_model_version_by_alias(name, "champion").version == "2"
    champion = mlflow.keras.load_model(f"models:/{name}@champion")
    assert champion.count_params() == 84
    before = _dump()
    sync()
    assert _dump() == before
    # Trained once more, on a server that lives: `evaluate` finds the newest run.
    train_and_evaluate(die=False)
    newest = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")[0]
    assert newest.info.status == "FINISHED"
    assert newest.data.metrics["test/accuracy"] == pytest.approx(0.52)
    assert newest.data.tags["registry.version"] == f"{name} 4"
    assert capsys.readouterr().err == ""


def test_without_a_repository_or_a_store_the_error_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(StageError, match=r"MLflow at http://\*\*\*@127.0.0.1:9 failed"):
        sync()
    monkeypatch.setattr(tracking, "ROOT", tmp_path)
    with pytest.raises(StageError, match="is not a DVC repository"):
        sync()


def test_a_lock_says_only_what_belongs_together() -> None:
    """Where `prepare` ran again and the repro was stopped, the networks are of other records."""

    def stage(params: dict[str, Any], deps: dict[str, str], outs: dict[str, str]) -> dict[str, Any]:
        entries = [[{"path": path, "md5": md5} for path, md5 in of.items()] for of in (deps, outs)]
        return {"params": {"params.yaml": params}, "deps": entries[0], "outs": entries[1]}

    def trained(prepared: str, measured_on: str, measured: str) -> Trained:
        model, records = "models/unet.keras", "data/records"
        stages = {
            "prepare": stage({"dataset": "pets", "image_size": 32}, {}, {records: prepared}),
            "train@unet": stage(
                {"epochs": 2, "weight_decay": 0, "unet": {"learning_rate": 1}},
                {records: "a"},
                {model: "m"},
            ),
            "evaluate@unet": stage(
                {"test_time_flip": True},
                {records: measured_on, model: measured},
                {"metrics/unet.json": "j"},
            ),
        }
        lock = yaml.safe_dump({"stages": stages}).encode()
        (found,) = trained_networks(lock, {"test_time_flip": False})
        return found

    params = {"epochs": 2, "weight_decay": 0.0, "learning_rate": 1}
    whole = trained("a", "a", "m")
    assert whole.params == {"dataset": "pets", "image_size": 32, "test_time_flip": True} | params
    assert (whole.evaluated, whole.records) == (True, True)
    assert whole.md5 == {"models/unet.keras": "m", "metrics/unet.json": "j"}
    prepared_again = trained("b", "a", "m")
    assert prepared_again.params == {"test_time_flip": True} | params
    assert (prepared_again.evaluated, prepared_again.records) == (True, False)
    for stale in (trained("a", "a", "another"), trained("a", "b", "m")):
        assert stale.params["test_time_flip"] is False
        assert not stale.evaluated
        assert "metrics/unet.json" not in stale.md5


def test_the_logged_parameters_are_those_that_the_stages_depend_on(params: Params) -> None:
    """dvc.lock, which sync reads, has every parameter that a live run logs."""
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    for network in FIRST:
        locked: dict[str, Any] = {}
        for name in ("prepare", f"train@{network}", f"evaluate@{network}"):
            locked |= stages[name]["params"]["params.yaml"]
        own = locked.pop(network)
        shared = set(counting_params(network, params)) - set(own)
        assert {key.split(".")[0] for key in shared} == set(locked)
