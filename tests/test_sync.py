"""`make sync` on real Git, DVC and MLflow: a store gets the runs of all that a repository has.

The stages are stubs (tests/stub_stages.py) of the real names, parameters and outputs.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import mlflow
import pytest
import requests
import yaml
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities import Dataset, Run

from stages.params import Params, load_params
from stages.records.manifest import Manifest
from stages.runs import registry, tracking
from stages.runs.registry import champion_alias, model_id
from stages.runs.run import file_md5, read_history, training_params
from stages.runs.sync import Trained, sync, trained_networks
from stages.runs.tracking import TrainingRun, log_evaluation
from stages.stage import StageError
from tests import stub_stages

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
MANIFEST = stub_stages.manifest(test="test")  # of the repository's records
UNET = "pet-segmentation-unet"


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


def _use(patch: pytest.MonkeyPatch, repository: Path, database: Path) -> None:
    """The store is a database; its artifacts lie in the repository."""
    patch.setattr(tracking, "ROOT", repository)
    patch.setattr(registry, "ROOT", repository)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_EXPERIMENT_NAME"):
        patch.delenv(name, raising=False)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")


@pytest.fixture
def root(
    embedded_store: Path,
    repository: Path,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The repository, which is the working folder, with an empty store."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    _use(monkeypatch, repository, tmp_path / "mlflow.db")
    monkeypatch.chdir(repository)
    return repository


class Synced(NamedTuple):
    """A store that was filled once, and what was printed; to be copied."""

    database: Path
    printed: str


@pytest.fixture(scope="module")
def synced(
    repository: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Synced:
    database = tmp_path_factory.mktemp("synced") / "mlflow.db"
    shutil.copy(empty_database, database)
    printed, previous = io.StringIO(), mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        _use(patch, repository, database)
        sync()
    mlflow.set_tracking_uri(previous)
    return Synced(database, printed.getvalue())


@pytest.fixture
def filled(root: Path, synced: Synced, tmp_path: Path) -> Path:
    """The repository with a store that has all its runs."""
    shutil.copy(synced.database, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
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


def _dump(folder: Path) -> list[str]:
    """All that a store in a folder has: rows, and files below it."""
    connection = sqlite3.connect(folder / "mlflow.db")
    rows = list(connection.iterdump())
    connection.close()
    artifacts = (folder / "mlartifacts").rglob("*")
    return rows + sorted(f"{file_md5(path)} {path}" for path in artifacts if path.is_file())


def test_all_that_dvc_has_is_in_the_store_and_twice_gives_the_same(
    filled: Path, synced: Synced, tmp_path: Path, capsys: pytest.CaptureFixture
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
    assert re.search("skipped: pages .*: it has no dvc.lock", synced.printed)
    assert "skipped: broken " in synced.printed
    assert synced.printed.splitlines()[-1].endswith(
        "4 added, 0 completed, 0 there already, 2 skipped"
    )
    before = _dump(tmp_path)
    sync()
    second = capsys.readouterr()
    assert second.err == ""
    assert "added: " not in second.out
    assert second.out.splitlines()[-1].endswith("0 added, 0 completed, 4 there already, 2 skipped")
    assert _dump(tmp_path) == before


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
    client = MlflowClient()
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
    assert files >= {"unet.history.csv", "unet.json", "unet.images.csv", "images"}
    uri = f"runs:/{faster.info.run_id}/unet"
    assert mlflow.keras.load_model(uri).count_params() == 84
    assert mlflow.pyfunc.load_model(uri).input_example.shape == (1, 8, 8, 3)


def test_a_restored_run_has_what_a_live_one_has(root: Path) -> None:
    params = load_params(root / "params.yaml")
    log_evaluation("unet", params, MANIFEST, root / "models/unet.keras")
    (live,) = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    mlflow.delete_run(live.info.run_id)
    sync()
    restored = _runs()["unet · main"]
    assert restored.data.params == live.data.params
    assert restored.data.metrics == live.data.metrics
    assert _dataset(restored).digest == _dataset(live).digest
    for key in ("network", "dataset", "dvc.stage", "model.md5", "evaluation.md5"):
        assert restored.data.tags[key] == live.data.tags[key]


def test_a_run_that_is_there_is_completed_and_not_made_again(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    """The stage that evaluates came from DVC's cache: the run lacks its test metrics."""
    params = load_params(root / "params.yaml")
    with TrainingRun("unet", params, MANIFEST) as run:
        run.log_files(root / "models/unet.keras", root / "metrics/unet.history.csv")
    (before,) = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    sync()
    out = capsys.readouterr().out
    assert f"completed: {before.info.run_name} now has its test metrics and its version" in out
    after = mlflow.get_run(before.info.run_id)
    assert after.data.metrics["test/accuracy"] == pytest.approx(0.52)
    assert (after.info.start_time, after.info.end_time) == (
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


def test_a_network_that_is_unavailable_is_named_and_comes_later(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
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
        assert out.count("models/unet.keras is in neither Git, the cache nor the remote") == 3
        run = _runs()["unet · main"]
        assert run.data.metrics["test/accuracy"] == pytest.approx(0.52)
        assert model_id(run) is None
        before = _dump(tmp_path)
        sync()
        assert _dump(tmp_path) == before
        assert capsys.readouterr().out.count("incomplete: ") == 4
    finally:
        model.write_bytes(kept)
        shutil.rmtree(cache, ignore_errors=True)
        hidden.rename(cache)
    sync()
    assert "completed: unet · gutsy-yawl now has its network" in capsys.readouterr().out
    run = _runs()["unet · main"]
    assert model_id(run)
    assert run.info.start_time == run.info.end_time


def test_the_champion_is_better_beyond_doubt(
    filled: Path, synced: Synced, capsys: pytest.CaptureFixture
) -> None:
    out, client, alias = synced.printed, MlflowClient(), champion_alias(MANIFEST)
    assert {model.name for model in client.search_registered_models()} == {
        UNET,
        "pet-segmentation-conv_deconv",
    }
    champion = client.get_model_version_by_alias(UNET, alias)
    assert champion.run_id == _runs()["unet · origin/faster"].info.run_id
    versions = {
        int(version.version): version for version in client.search_model_versions(f"name='{UNET}'")
    }
    assert versions[1].description == "the first on this test split"
    verdicts = [versions[number].tags["verdict"] for number in (1, 2, 3)]
    assert verdicts == ["champion", "champion", "not champion"]
    assert f"{UNET} version 2 becomes {alias}: mean IoU +0." in out
    assert f"{UNET} version 3 does not become {alias}: mean IoU -0." in out
    assert "against version 2, paired over 40 test images" in str(versions[3].description)
    assert mlflow.keras.load_model(f"models:/{UNET}@{alias}").count_params() == 84
    run_id = str(champion.run_id)
    # As if the server had gone down between the registration and the alias.
    client.set_registered_model_alias(UNET, alias, "1")
    client.delete_tag(run_id, "registry.version")
    client.delete_model_version_tag(UNET, "2", "verdict")
    sync()
    assert f"{UNET} version 2 becomes {alias}: mean IoU +0." in capsys.readouterr().out
    # Or between the alias and the verdict, or after that.
    for verdict in (True, False):
        client.delete_tag(run_id, "registry.version")
        if verdict:
            client.delete_model_version_tag(UNET, "2", "verdict")
        sync()
        assert "1 completed" in capsys.readouterr().out
        assert client.get_model_version_by_alias(UNET, alias).run_id == run_id
        assert client.get_run(run_id).data.tags["registry.version"] == f"{UNET} 2"
    assert len(client.search_model_versions(f"name='{UNET}'")) == 3


def test_each_dataset_has_a_champion_that_a_better_network_on_it_replaces(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    params, client = load_params(filled / "params.yaml"), MlflowClient()
    (tmp_path / "metrics").mkdir()
    monkeypatch.chdir(tmp_path)
    cats = stub_stages.manifest("oxford_iiit_pet", "b")

    def evaluate(right: float, flip: bool = False, dataset: Manifest = cats) -> dict[str, str]:
        """Evaluates another network, and returns the versions of both champions."""
        path = tmp_path / "unet.keras"
        shutil.copy(filled / "network.keras", path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = f"{right} {flip}".encode()
        stub_stages.write_evaluation("unet", right)
        changed = params.model_copy(update={"test_time_flip": flip})
        log_evaluation("unet", changed, dataset, path)
        return champions()

    def champions() -> dict[str, str]:
        aliases = client.get_registered_model(UNET).aliases
        return {alias: str(version) for alias, version in aliases.items()}

    drawn, real = champion_alias(MANIFEST), champion_alias(cats)
    assert real.startswith("champion-oxford_iiit_pet-")
    assert champions() == {drawn: "2"}
    assert evaluate(0.6) == {drawn: "2", real: "4"}  # not as good as the other dataset's
    assert "version 4 becomes champion-oxford_iiit_pet" in capsys.readouterr().out
    assert evaluate(0.55) == {drawn: "2", real: "4"}
    assert evaluate(0.7) == {drawn: "2", real: "6"}
    assert evaluate(0.9, dataset=MANIFEST) == {drawn: "7", real: "6"}
    assert evaluate(0.95, flip=True) == {drawn: "7", real: "6"}
    out = capsys.readouterr().out
    assert "version 6 was evaluated with another test_time_flip; set the alias by hand" in out


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
    server.start()
    yield server
    server.kill()


def test_a_server_that_dies_costs_no_training_and_gets_all_runs_when_it_is_back(
    root: Path,
    server: _Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it is gone for good
    params = load_params(root / "params.yaml")
    model, history = root / "models/unet.keras", root / "metrics/unet.history.csv"

    def train_and_evaluate(die: bool) -> None:
        with TrainingRun("unet", params, MANIFEST) as run:
            for row in read_history(history):
                run.log_epoch(row, seconds=1.0, images_per_second=1.0)
                if die:
                    server.kill()
            run.log_files(model, history)
        log_evaluation("unet", params, MANIFEST, model)

    train_and_evaluate(die=True)
    warnings = capsys.readouterr().err.splitlines()
    prefix = f"warning: MLflow at {server.uri} failed"
    assert [line.startswith(prefix) for line in warnings] == [True] * 2
    with pytest.raises(StageError, match="failed"):
        sync()
    server.start()
    sync()
    assert "4 added" in capsys.readouterr().out
    runs = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")
    # What the server had received of the training whose end it did not see is still there.
    assert len(runs) == 5
    restored = next(run for run in runs if str(run.info.run_name).startswith("unet · main"))
    assert restored.data.metrics["test/accuracy"] == pytest.approx(0.52)
    assert str(restored.info.artifact_uri).startswith("mlflow-artifacts:/")
    client, alias = MlflowClient(), champion_alias(MANIFEST)
    assert client.get_model_version_by_alias(UNET, alias).version == "2"
    assert mlflow.keras.load_model(f"models:/{UNET}@{alias}").count_params() == 84
    before = _dump(server.folder)
    sync()
    assert _dump(server.folder) == before
    # Trained once more, on a server that lives: `evaluate` finds the newest run.
    train_and_evaluate(die=False)
    newest = mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")[0]
    assert newest.info.status == "FINISHED"
    assert newest.data.metrics["test/accuracy"] == pytest.approx(0.52)
    assert newest.data.tags["registry.version"] == f"{UNET} 4"
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
        files = MemoryFileSystem(skip_instance_cache=True)
        files.pipe("/dvc.lock", yaml.safe_dump({"stages": stages}).encode())
        files.pipe("/params.yaml", b"test_time_flip: false")
        (found,) = trained_networks(files)
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
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = {name for stage in ("prepare", "train", "evaluate") for name in stages[stage]["params"]}
    for network in ("conv_deconv", "unet"):
        own = params.network(network).model_dump()
        shared = set(training_params(network, params)) - set(own)
        assert {key.split(".")[0] for key in shared} == names - {"${item.network}"}
