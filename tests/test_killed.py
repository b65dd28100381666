"""Stages killed at random moments by a real SIGKILL: what is run again ends with the same bytes."""

import os
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from stages.params import Params
from tests.faults import DroppedTermination, Kill, SmallNetwork
from tests.stage_process import Ended, Stage, write_exports

EPOCHS = 5
SIZE = 32
MOMENTS = ("batch", "write", "validation", "epoch begin", "replaced", "epoch end")
CHAINS, KILLS = 5, 4  # trainings, and how many times each of them is killed


@pytest.fixture(scope="module")
def configuration(params: Params) -> dict[str, Any]:
    """Small, and with every part that keeps something from step to step."""
    changes = {"epochs": EPOCHS, "image_size": SIZE, "ema_momentum": 0.8, "batch_norm_batches": 2}
    values = params.model_copy(update=changes).model_dump()
    values["conv_deconv"]["learning_rate"] = 0.03
    values["networks"] = ["conv_deconv"]
    return values


@pytest.fixture(scope="module")
def prepared(
    processes: ForkServerContext, configuration: dict[str, Any], tmp_path_factory: Any
) -> Path:
    """A folder with parameters and records; read only."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "params.yaml").write_text(yaml.safe_dump(configuration))
    assert Stage(processes, folder, "prepare").end().code == 0
    return folder


def _folder(prepared: Path, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(parents=True)
    (tmp_path / "data" / "records").symlink_to(prepared / "data" / "records")
    (tmp_path / "params.yaml").write_bytes((prepared / "params.yaml").read_bytes())
    return tmp_path


def _outputs(folder: Path) -> dict[str, bytes]:
    """What DVC takes as the outputs of training, and would remove before it trains again."""
    files = [*folder.glob("models/*.keras"), *folder.glob("metrics/*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _train(processes: ForkServerContext, folder: Path, fault: SmallNetwork) -> Ended:
    for file in _outputs(folder):
        (folder / file).unlink()
    return Stage(processes, folder, "train", "conv_deconv", fault=fault).end()


def _finished_epochs(folder: Path) -> int:
    files = list(folder.glob(".dvc/tmp/training/*/state.npz"))
    if not files:
        return 0
    with np.load(files[0]) as state:
        return bytes(state["details"]).count(b'"epoch"')


@pytest.fixture(scope="module")
def trained(processes: ForkServerContext, prepared: Path, tmp_path_factory: Any) -> Path:
    """A folder in which nothing was ever interrupted; read only."""
    folder = _folder(prepared, tmp_path_factory.mktemp("trained"))
    ended = _train(processes, folder, SmallNetwork())
    assert ended.code == 0, ended.errors
    return folder


@pytest.mark.parametrize("chain", range(CHAINS))
def test_a_training_killed_at_random_moments_ends_with_the_same_bytes(
    processes: ForkServerContext, prepared: Path, trained: Path, tmp_path: Path, chain: int
) -> None:
    folder = _folder(prepared, tmp_path / "repository")
    rng = np.random.default_rng(chain)
    for kill in range(KILLS):
        left = EPOCHS - _finished_epochs(folder)
        moment = MOMENTS[(chain * KILLS + kill) % len(MOMENTS)]
        # 10 training pictures in batches of 4, 2 validation pictures; at the end of the training
        # the network and the history are written.
        files = left - 1 + 2
        times = {"batch": 3 * left, "write": files, "replaced": files}.get(moment, left)
        fault = Kill(moment, int(rng.integers(1, times + 1)))
        ended = _train(processes, folder, fault)
        assert ended.code == -9, (fault, ended)
    ended = _train(processes, folder, SmallNetwork())
    assert ended.code == 0, ended.errors
    assert _outputs(folder) == _outputs(trained)
    assert not list(folder.glob(".dvc/tmp/training/*"))


def test_a_killed_training_goes_on_in_its_mlflow_run(
    processes: ForkServerContext, prepared: Path, trained: Path, tmp_path: Path
) -> None:
    """Ctrl-C, SIGTERM and SIGKILL in the middle of it; MLflow records the training as one run."""
    folder = _folder(prepared, tmp_path)
    epochs = 30
    values = yaml.safe_load((folder / "params.yaml").read_text()) | {"epochs": epochs}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for number in (signal.SIGINT, signal.SIGTERM):
        stage = _when_it_has_a_new_state(processes, folder)
        os.kill(stage.process.pid or 0, number)
        ended = stage.end()  # were it to train to the end, its exit status would be 0
        assert ended.code == 1
        interrupted = "train: interrupted; `dvc repro` with the same parameters goes on after"
        assert interrupted in ended.errors
        assert "Traceback" not in ended.errors
    stage = _when_it_has_a_new_state(processes, folder)
    os.kill(stage.process.pid or 0, signal.SIGKILL)
    assert stage.end().code == -signal.SIGKILL
    assert not _outputs(folder)
    ended = Stage(processes, folder, "train", "conv_deconv", fault=SmallNetwork(tracked=True)).end()
    assert ended.code == 0, ended.errors
    assert "conv_deconv goes on after epoch" in ended.out
    resumed = _outputs(folder)
    (run,) = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_runs(["1"])
    assert run.info.status == "FINISHED"
    points = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(
        run.info.run_id, "val_loss"
    )
    # An epoch that was under way may be there twice, with the same figure.
    curve = {point.step: point.value for point in points}
    assert len({(point.step, point.value) for point in points}) == len(curve) == epochs
    ended = _train(processes, folder, SmallNetwork())
    assert ended.code == 0, ended.errors
    assert _outputs(folder) == resumed


def test_a_termination_that_python_drops_ends_the_training_all_the_same(
    processes: ForkServerContext, prepared: Path, tmp_path: Path
) -> None:
    folder = _folder(prepared, tmp_path)
    ended = _train(processes, folder, DroppedTermination(5))
    assert "Exception ignored in" in ended.errors  # or the test would try something else
    assert ended.code == 1
    assert ended.errors.rstrip().endswith(f"goes on after epoch 1 of {EPOCHS}")


def _when_it_has_a_new_state(processes: ForkServerContext, folder: Path) -> Stage:
    """A training that has just saved a state."""
    begin = time.time()
    stage = Stage(processes, folder, "train", "conv_deconv", fault=SmallNetwork(tracked=True))
    while stage.process.is_alive():
        for file in folder.glob(".dvc/tmp/training/*/state.npz"):
            if file.stat().st_mtime > begin:
                return stage
        time.sleep(0.01)
    pytest.fail(f"the stage ended: {stage.end()}")


def test_two_trainings_of_one_configuration_do_not_disturb_each_other(
    processes: ForkServerContext, prepared: Path, trained: Path, tmp_path: Path
) -> None:
    """As in a workspace and in a copy of it that `dvc exp run --temp` makes; then one is killed."""
    copies = [_folder(prepared, tmp_path / name) for name in ("workspace", "copy")]
    for fault in (SmallNetwork(), Kill("batch", 8)):
        stages = [
            Stage(processes, copies[0], "train", "conv_deconv", fault=fault, working_folder=copy)
            for copy, fault in zip(copies, (fault, SmallNetwork()), strict=True)
        ]
        codes = [stage.end().code for stage in stages]
        assert codes == [-9 if isinstance(fault, Kill) else 0, 0]
        assert _outputs(copies[1]) == _outputs(trained)
        assert _outputs(copies[0]) == _outputs(trained) or isinstance(fault, Kill)
    assert _train(processes, copies[0], SmallNetwork()).code == 0
    assert _outputs(copies[0]) == _outputs(trained)
    assert not list(tmp_path.glob("*/.dvc/tmp/training/*"))


@pytest.fixture(scope="module")
def evaluated(processes: ForkServerContext, trained: Path, tmp_path_factory: Any) -> Path:
    """`trained`, and then evaluated without an interruption; read only."""
    folder = tmp_path_factory.mktemp("evaluated") / "repository"
    shutil.copytree(trained, folder, symlinks=True)
    ended = Stage(processes, folder, "evaluate", "conv_deconv").end()
    assert ended.code == 0, ended.errors
    return folder


def _whole(folder: Path) -> dict[str, bytes]:
    """What lies where outputs lie, but for what says that it is in the making."""
    names = ("data/records/*", "metrics/*", "reports/*")
    files = [file for name in names for file in folder.glob(name) if ".new" not in file.suffixes]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("stage", "needs", "gives", "moments"),
    [
        # There are 18 examples and six shards; the last to get its name is the folder.
        ("prepare", None, "prepared", [("example", 1), ("example", 15), ("rename", 7)]),
        ("evaluate", "trained", "evaluated", [("write", 1), ("replaced", 3), ("write", 6)]),
        ("plot", "evaluated", "evaluated", [("write", 7)]),
    ],
)
def test_no_half_written_output_of_a_killed_stage_is_taken_for_a_whole_one(
    request: pytest.FixtureRequest,
    processes: ForkServerContext,
    prepared: Path,
    tmp_path: Path,
    stage: str,
    needs: str | None,
    gives: str,
    moments: list[tuple[str, int]],
) -> None:
    folder = tmp_path / "repository"
    if needs:
        shutil.copytree(request.getfixturevalue(needs), folder, symlinks=True)
        write_exports(folder, "conv_deconv")
    else:
        folder.mkdir()
        shutil.copy(prepared / "params.yaml", folder)
    arguments = ("conv_deconv",) if stage == "evaluate" else ()
    found = []
    for moment in moments:
        ended = Stage(processes, folder, stage, *arguments, fault=Kill(*moment)).end()
        assert ended.code == -9, (moment, ended)
        found.append(_whole(folder))
    ended = Stage(processes, folder, stage, *arguments).end()
    assert ended.code == 0, ended.errors
    expected, after = _whole(request.getfixturevalue(gives)), _whole(folder)
    for files in (expected, *found):
        assert {name: after[name] for name in files} == files
    assert [file for name in ("*.new.*", ".prepare-*") for file in folder.rglob(name)] == []
