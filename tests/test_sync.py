"""`make sync` on real Git, DVC and MLflow: a store gets the runs of all that a repository has."""

import contextlib
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import keras
import mlflow
import pytest
import yaml
from dvc.repo import Repo
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities import Run

from stages.params import load_params
from stages.runs.registry import champion_alias, model_id
from stages.runs.run import file_md5, read_history
from stages.runs.sync import Trained, sync, trained_networks
from stages.runs.tracking import TrainingRun
from stages.stage import StageError
from tests import stub_stages

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = stub_stages.manifest(test="test")  # of the repository's records
UNET = "pet-segmentation-unet"
# Learning rates of the U-Net: on two branches, in an experiment and in the workspace.
MAIN, FASTER, GUTSY_YAWL, WORKSPACE = 0.001, 0.03, 0.02, 0.01


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _results(folder: Path, learning_rate: float) -> None:
    """Gives the U-Net a learning rate, and DVC what the stages would write."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["unet"]["learning_rate"] = learning_rate
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    with contextlib.chdir(folder), Repo() as repo:
        stub_stages.write_outputs()
        repo.commit(force=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results on a branch, better ones on a remote's, in an experiment and in the workspace, whose
    params.yaml was edited again since; a branch without and one with broken results.

    weight_decay is a whole number, as a user may write it.
    """
    folder = tmp_path_factory.mktemp("repository")
    images = keras.Input((8, 8, 3))
    keras.Model(images, keras.layers.Conv2D(3, 3, padding="same")(images)).save(
        folder / "network.keras"
    )
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"epochs": 3, "weight_decay": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    stages = {name: stages[name] for name in ("prepare", "train", "evaluate")}
    for stage in stages.values():
        stage["deps"] = [dep for dep in stage["deps"] if dep.startswith(("data/rec", "models"))]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / ".gitignore").write_text("/mlflow.db*\n/mlartifacts/\n")
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "config", "user.name", "Test")
    _git(folder, "config", "user.email", "test@localhost")
    Repo.init(str(folder)).close()
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "The pipeline")
    _git(folder, "branch", "empty")
    _results(folder, MAIN)
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "Results")
    _results(folder, GUTSY_YAWL)
    with contextlib.chdir(folder), Repo() as repo:
        repo.experiments.save(name="gutsy-yawl")
    _results(folder, FASTER)
    _git(folder, "checkout", "--quiet", "-b", "faster")
    _git(folder, "commit", "--quiet", "--all", "--message", "Learn faster")
    _git(folder, "update-ref", "refs/remotes/origin/faster", "faster")
    _git(folder, "checkout", "--quiet", "-b", "broken")
    (folder / "dvc.lock").write_text("stages: [")
    _git(folder, "commit", "--quiet", "--all", "--message", "Break")
    _git(folder, "checkout", "--quiet", "main")
    _git(folder, "branch", "--quiet", "-D", "faster")
    _results(folder, WORKSPACE)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace(f": {WORKSPACE}", ": 0.9"))
    return folder


@pytest.fixture
def root(
    embedded_store: Path, repository: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the repository, which is the working folder, with an empty store."""
    shutil.copytree(repository, embedded_store, dirs_exist_ok=True)
    shutil.copy(empty_database, embedded_store / "mlflow.db")
    monkeypatch.chdir(embedded_store)
    return embedded_store


def _runs() -> list[Run]:
    """All runs, the newest first."""
    return mlflow.search_runs(experiment_names=["pet-segmentation"], output_format="list")


def _unets() -> dict[float, Run]:
    """The U-Net's runs by learning rate."""
    unets = [run for run in _runs() if run.data.params["network"] == "unet"]
    found = {float(run.data.params["learning_rate"]): run for run in unets}
    assert len(found) == len(unets)
    return found


def _dump(folder: Path) -> list[str]:
    """All that a store in a folder has: rows, and files below it."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        rows = list(connection.iterdump())
    artifacts = (folder / "mlartifacts").rglob("*")
    return rows + sorted(f"{file_md5(path)} {path}" for path in artifacts if path.is_file())


def test_the_store_gets_what_each_revision_has_and_twice_gives_the_same(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    sync()
    out = capsys.readouterr().out
    assert re.search("skipped: empty .*: .*dvc.lock", out)
    assert "skipped: broken " in out
    assert out.endswith("5 added, 0 completed, 0 there already, 2 skipped\n")
    runs, client = _unets(), MlflowClient()
    # Conv-Deconv is the same everywhere, so it is one run, of the first branch that has it.
    (conv_deconv,) = [run for run in _runs() if run.data.params["network"] == "conv_deconv"]
    assert str(conv_deconv.info.run_name).startswith("conv_deconv · main ")
    assert set(runs) == {MAIN, FASTER, GUTSY_YAWL, WORKSPACE}
    baseline, commit = (_git(root, "rev-parse", ref) for ref in ("main", "origin/faster"))
    experiment = {"dvc.experiment": "gutsy-yawl", "dvc.stage": "train@unet"}
    experiment |= dict.fromkeys(("dvc.baseline", "mlflow.source.git.commit"), baseline)
    assert experiment.items() <= runs[GUTSY_YAWL].data.tags.items()
    assert runs[GUTSY_YAWL].info.run_name == "unet · gutsy-yawl"
    faster = runs[FASTER]
    assert faster.data.tags["mlflow.source.git.commit"] == commit
    assert faster.info.run_name == f"unet · origin/faster {commit[:7]}"
    time = 1000 * int(_git(root, "log", "-1", "--format=%ct", "origin/faster"))
    assert (faster.info.start_time, faster.info.end_time) == (time, time)
    assert faster.info.status == "FINISHED"
    points = client.get_metric_history(faster.info.run_id, "val_loss")
    assert {point.step: point.value for point in points} == {1: 0.6, 2: 0.5, 3: 0.6}
    metrics = faster.data.metrics
    assert (metrics["best_epoch"], metrics["test/accuracy"]) == (2, pytest.approx(0.8, abs=1e-3))
    assert metrics["test_low/mean_iou"] < metrics["test/mean_iou"] < metrics["test_high/mean_iou"]
    files = {file.path for file in client.list_artifacts(faster.info.run_id)}
    assert files >= {"unet.history.csv", "unet.json", "unet.images.csv", "images"}
    uri = f"runs:/{faster.info.run_id}/unet"
    assert mlflow.keras.load_model(uri).count_params() == 84
    assert mlflow.pyfunc.load_model(uri).input_example.shape == (1, 8, 8, 3)
    champion = client.get_model_version_by_alias(UNET, champion_alias(MANIFEST))
    assert champion.run_id == faster.info.run_id
    before = _dump(root)
    sync()
    second = capsys.readouterr()
    assert (second.err, "added: " in second.out) == ("", False)
    assert second.out.endswith("0 added, 0 completed, 5 there already, 2 skipped\n")
    assert _dump(root) == before


def test_what_a_run_lacks_is_named_and_comes_later_and_a_deleted_run_comes_back_the_same(
    root: Path, repository: Path, capsys: pytest.CaptureFixture
) -> None:
    """The workspace's evaluation came from DVC's cache, and then the cache is gone."""
    history = root / "metrics/unet.history.csv"
    params = load_params(root / "params.yaml")
    unet = params.unet.model_copy(update={"learning_rate": WORKSPACE})
    params = params.model_copy(update={"unet": unet})
    with TrainingRun("unet", params, MANIFEST) as run:
        for row in read_history(history):
            run.log_epoch(row, seconds=1.0, images_per_second=1.0)
        run.log_files(root / "models/unet.keras", history)
    for folder in (".dvc/cache", "models"):
        shutil.rmtree(root / folder)
    sync()
    out = capsys.readouterr().out
    assert out.count("models/unet.keras is in neither Git, the cache nor the remote") == 3
    assert re.search("completed: .*; now with its test metrics; now with its version in the", out)
    live, lacking = _unets()[WORKSPACE], _unets()[MAIN]
    assert live.info.run_id == run.run_id
    assert lacking.data.metrics["test/accuracy"] == pytest.approx(0.51, abs=1e-3)
    assert model_id(lacking) is None
    before = _dump(root)
    sync()
    assert _dump(root) == before
    assert capsys.readouterr().out.count("incomplete: ") == 4
    shutil.copytree(repository / ".dvc/cache", root / ".dvc/cache", dirs_exist_ok=True)
    shutil.copytree(repository / "models", root / "models")
    mlflow.delete_run(run.run_id)
    sync()
    assert "completed: unet · gutsy-yawl; now with its network" in capsys.readouterr().out
    runs = _unets()
    assert model_id(runs[MAIN])
    assert runs[MAIN].info.start_time == runs[MAIN].info.end_time
    restored = runs[WORKSPACE]
    assert restored.data.params == live.data.params
    metrics = live.data.metrics.items()
    same = {name: value for name, value in metrics if not name.startswith(("speed/", "system/"))}
    assert restored.data.metrics == same
    assert restored.data.metrics["test/accuracy"] == pytest.approx(0.6, abs=1e-3)
    assert restored.inputs == live.inputs
    for key in ("network", "dataset", "dvc.stage", "model.md5", "evaluation.md5"):
        assert restored.data.tags[key] == live.data.tags[key]


def test_a_store_that_is_unavailable_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StageError, match=r"MLflow at http://\*\*\*@127.0.0.1:9 failed"):
        sync()


def test_a_network_whose_stages_do_not_belong_together_has_no_run_yet() -> None:
    """`prepare` or `train` ran again, and the repro was stopped before the next stage."""

    def stage(params: dict[str, Any], deps: dict[str, str], outs: dict[str, str]) -> dict[str, Any]:
        entries = [[{"path": path, "md5": md5} for path, md5 in of.items()] for of in (deps, outs)]
        return {"params": {"params.yaml": params}, "deps": entries[0], "outs": entries[1]}

    def trained(prepared: str, measured_on: str, measured: str) -> list[Trained]:
        model, records = "models/unet.keras", "data/records"
        own = {"epochs": 2, "weight_decay": 0, "unet": {"learning_rate": 1}}
        deps = {records: measured_on, model: measured}
        stages = {
            "prepare": stage({"dataset": "pets"}, {}, {records: prepared}),
            "train@unet": stage(own, {records: "a"}, {model: "m"}),
            "evaluate@unet": stage({"extremes": 3}, deps, {"metrics/unet.json": "j"}),
        }
        files = MemoryFileSystem(skip_instance_cache=True)
        files.pipe("/dvc.lock", yaml.safe_dump({"stages": stages}).encode())
        return list(trained_networks(files))

    (whole,) = trained("a", "a", "m")
    params = {"dataset": "pets", "epochs": 2, "weight_decay": 0.0, "learning_rate": 1}
    assert whole.params == params | {"extremes": 3, "test_time_flip": False}
    assert whole.files == {
        "models/unet.keras": "m",
        "metrics/unet.json": "j",
        "data/records/manifest.json": "",
        "data/records/examples.npz": "",
    }
    for changed in (("b", "a", "m"), ("a", "b", "m"), ("a", "a", "another")):
        assert trained(*changed) == []
