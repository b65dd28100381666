"""Stages killed at each kind of moment: run again, they end with the same bytes."""

import shutil
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from stages.params import Params
from tests.faults import Signal, SmallNetwork
from tests.stage_process import Ended, Stage

EPOCHS = 4
STEPS = 3  # 10 training images in batches of 4
TRAIN = ("train", "conv_deconv")


@pytest.fixture(scope="module")
def prepared(processes: ForkServerContext, params: Params, tmp_path_factory: Any) -> Path:
    """A folder with parameters and records; read only."""
    folder = tmp_path_factory.mktemp("prepared")
    changes = {"epochs": EPOCHS, "image_size": 32, "ema_momentum": 0.8}
    values = params.model_copy(update=changes).model_dump()
    values["conv_deconv"]["learning_rate"] = 0.03
    values["networks"] = ["conv_deconv"]
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    assert Stage(processes, folder, "prepare").end().code == 0
    return folder


def _folder(prepared: Path, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(parents=True)
    (tmp_path / "data" / "records").symlink_to(prepared / "data" / "records")
    shutil.copy(prepared / "params.yaml", tmp_path)
    return tmp_path


def _outputs(folder: Path) -> dict[str, bytes]:
    """What DVC takes as the outputs of training, and would remove before it trains again."""
    files = [*folder.glob("models/*.keras"), *folder.glob("metrics/*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _train(processes: ForkServerContext, folder: Path, fault: SmallNetwork) -> Ended:
    for file in _outputs(folder):
        (folder / file).unlink()
    return Stage(processes, folder, *TRAIN, fault=fault).end()


@pytest.fixture(scope="module")
def trained(processes: ForkServerContext, prepared: Path, tmp_path_factory: Any) -> Path:
    """A folder in which nothing was ever interrupted; read only."""
    folder = _folder(prepared, tmp_path_factory.mktemp("trained"))
    ended = _train(processes, folder, SmallNetwork())
    assert ended.code == 0, ended.errors
    return folder


def test_a_training_killed_at_each_kind_of_moment_ends_with_the_same_bytes(
    processes: ForkServerContext, prepared: Path, trained: Path, tmp_path: Path
) -> None:
    """A training that goes on has done at most one epoch more before it is killed again."""
    folder = _folder(prepared, tmp_path)
    for moment, number in (
        ("step", STEPS + 2),  # in the second epoch
        ("write", 1),  # its state
        ("validation", 2),  # of the third epoch
        ("replaced", 1),  # its state
        ("write", 2),  # the network
        ("replaced", 2),  # the history
    ):
        ended = _train(processes, folder, Signal(moment, number))
        assert ended.code == -signal.SIGKILL, (moment, ended)
    ended = _train(processes, folder, SmallNetwork())
    assert ended.code == 0, ended.errors
    assert f"conv_deconv goes on after epoch {EPOCHS} of {EPOCHS}" in ended.out
    assert _outputs(folder) == _outputs(trained)
    assert list(folder.glob(".dvc/tmp/training/*")) == []


def test_a_training_interrupted_by_signals_goes_on_in_its_mlflow_run(
    processes: ForkServerContext, prepared: Path, trained: Path, tmp_path: Path
) -> None:
    """Ctrl-C before a step, SIGTERM before a validation, then SIGKILL; recorded as one run."""
    folder = _folder(prepared, tmp_path)
    store = f"sqlite:///{folder}/mlflow.db"
    for moment, number, kind, done in (
        ("step", 2, signal.SIGINT, 0),
        ("step", STEPS + 1, signal.SIGTERM, 1),
        ("validation", 1, signal.SIGINT, 2),  # after it and a step more
    ):
        ended = _train(processes, folder, Signal(moment, number, kind, tracked=True))
        assert ended.code == 1, ended  # were it to train to the end, it would be 0
        *_, line = ended.errors.strip().splitlines()
        goes_on = f"the same command with the same parameters goes on after epoch {done} of 4"
        assert line == f"train: interrupted; {goes_on}"
        assert "Traceback" not in ended.errors
        assert {run.info.status for run in MlflowClient(store).search_runs(["1"])} == {"KILLED"}
    ended = _train(processes, folder, Signal("step", STEPS + 2, tracked=True))
    assert ended.code == -signal.SIGKILL
    ended = _train(processes, folder, SmallNetwork(tracked=True))
    assert ended.code == 0, ended.errors
    assert "conv_deconv goes on after epoch 3 of 4" in ended.out
    assert _outputs(folder) == _outputs(trained)
    # The first had no state to find its run by.
    runs = MlflowClient(store).search_runs(["1"])
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]
    (run,) = (run for run in runs if run.info.status == "FINISHED")
    points = MlflowClient(store).get_metric_history(run.info.run_id, "val_loss")
    assert sorted({point.step for point in points}) == [1, 2, 3, 4]
    assert len({(point.step, point.value) for point in points}) == 4


def test_two_trainings_of_one_configuration_do_not_disturb_each_other(
    processes: ForkServerContext, prepared: Path, trained: Path, tmp_path: Path
) -> None:
    """As in a workspace and in a copy of it that `dvc exp run --temp` makes; one is killed."""
    copies = [_folder(prepared, tmp_path / name) for name in ("workspace", "copy")]
    faults = (Signal("step", 2 * STEPS), SmallNetwork())
    stages = [
        Stage(processes, copies[0], *TRAIN, fault=fault, working_folder=copy)
        for copy, fault in zip(copies, faults, strict=True)
    ]
    assert [stage.end().code for stage in stages] == [-signal.SIGKILL, 0]
    assert _outputs(copies[1]) == _outputs(trained)
    assert _train(processes, copies[0], SmallNetwork()).code == 0
    assert _outputs(copies[0]) == _outputs(trained)
    assert list(tmp_path.glob("*/.dvc/tmp/training/*")) == []


def test_no_half_written_output_of_a_killed_stage_is_taken_for_a_whole_one(
    processes: ForkServerContext, trained: Path, tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    shutil.copytree(trained, whole)
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("data"))
    for repository in (whole, folder):
        exports = (
            repository / "metrics" / "conv_deconv.exports.csv"
        )  # what `plot` needs of `export`
        exports.write_text(
            "format,images,bytes,agreement,mean_iou,iou_loss\nkeras,6,1000,1.0,0.5,0.0\n"
        )
    for stage, moments in (
        # There are 18 examples and six shards; the last to get its name is the folder.
        (("prepare",), [("example", 15), ("rename", 7)]),
        (("evaluate", "conv_deconv"), [("write", 1), ("replaced", 3)]),
        (("plot",), [("write", 7)]),
    ):
        if stage != ("prepare",):
            ended = Stage(processes, whole, *stage).end()
            assert ended.code == 0, ended.errors
        for moment in moments:
            ended = Stage(processes, folder, *stage, fault=Signal(*moment)).end()
            assert ended.code == -signal.SIGKILL, (moment, ended)
            assert _named(folder).items() <= _named(whole).items()
        ended = Stage(processes, folder, *stage).end()
        assert ended.code == 0, ended.errors
    assert _named(folder) == _named(whole)
    assert [file for name in ("*.new.*", ".prepare-*") for file in folder.rglob(name)] == []


def _named(folder: Path) -> dict[str, bytes]:
    """What lies where outputs lie, except files in the making."""
    names = ("data/records/*", "metrics/*", "reports/*")
    files = [file for name in names for file in folder.glob(name) if ".new" not in file.suffixes]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
