"""Stages killed at random moments by a real SIGKILL: what is run again ends with the same bytes."""

from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.params import Params
from tests.faults import Kill, SmallNetwork
from tests.stage_process import Ended, Stage, stage_processes

EPOCHS = 5
SIZE = 32
MOMENTS = ("batch", "write", "validation", "epoch begin", "replaced", "epoch end")
CHAINS, KILLS = 5, 4  # trainings, and how many times each of them is killed


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    with stage_processes() as context:
        yield context


@pytest.fixture(scope="module")
def configuration(params: Params) -> dict[str, Any]:
    """Small, and with every part that keeps something from step to step."""
    changes = {"epochs": EPOCHS, "image_size": SIZE, "ema_momentum": 0.8, "batch_norm_batches": 2}
    values = params.model_copy(update=changes).model_dump()
    values["conv_deconv"]["learning_rate"] = 0.03
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
