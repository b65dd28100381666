"""Training on several machines: processes on loopback, each in a folder of its own."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml

from stages.params import Params
from stages.stage import StageError
from stages.train import loop
from stages.train.__main__ import worker_index
from stages.train.loop import join_workers
from tests.faults import Signal, SmallNetwork
from tests.stage_process import Ended, end_of_stage

NETWORK = "conv_deconv"
STEPS = 2  # 9 training images in batches of 5, 4: shares of 3 and 2, and of 2 and 2


@dataclass(frozen=True)
class Worker:
    """A place in a cluster on loopback, on one core, and what happens there."""

    index: int
    ports: tuple[int, ...]
    fault: Callable[[], None]

    def __call__(self) -> None:
        workers = [f"127.0.0.1:{port}" for port in self.ports]
        task = {"type": "worker", "index": self.index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
        tf.config.threading.set_intra_op_parallelism_threads(1)
        self.fault()


def _train(
    processes: ForkServerContext, folders: list[Path], *faults: Callable[[], None]
) -> list[Ended]:
    """Train on two machines at once."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in faults]
        ports = tuple(each.getsockname()[1] for each in sockets)

    def trained(index: int) -> Ended:
        worker = Worker(index, ports, faults[index])
        return end_of_stage(processes, folders[index], "train", NETWORK, fault=worker)

    with ThreadPoolExecutor(len(faults)) as pool:
        return list(pool.map(trained, range(len(faults))))


def _outputs(folder: Path) -> list[bytes]:
    paths = Path("models", f"{NETWORK}.keras"), Path("metrics", f"{NETWORK}.history.csv")
    return [(folder / path).read_bytes() for path in paths]


def _machines(params: Params, records: Path, folder: Path, distribution: str) -> list[Path]:
    """Two clones of a repository with the same records."""
    changes = {"image_size": 32, "batch_size": 5, "epochs": 3, "distribution": distribution}
    values = params.model_copy(update=changes).model_dump()
    values[NETWORK]["learning_rate"] = 0.01
    for name in "01":
        shutil.copytree(records, folder / name / "data" / "records")
        (folder / name / "params.yaml").write_text(yaml.safe_dump(values))
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def small_records(params: Params, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from stages.prepare.__main__ import write_records  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("records")
    write_records(params.model_copy(update={"image_size": 32}), folder, scratch)
    return folder


@pytest.fixture(scope="module")
def trained(
    processes: ForkServerContext,
    params: Params,
    small_records: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """Two machines after a training without faults."""
    folder = tmp_path_factory.mktemp("trained")
    folders = _machines(params, small_records, folder, "multi_worker")
    for ended in _train(processes, folders, SmallNetwork(), SmallNetwork()):
        assert ended.code == 0, ended.errors
    return folders


def test_two_machines_train_what_one_trains_and_worker_0_alone_writes(
    processes: ForkServerContext,
    params: Params,
    small_records: Path,
    trained: list[Path],
    tmp_path: Path,
) -> None:
    one, _ = _machines(params, small_records, tmp_path, "none")
    ended = end_of_stage(processes, one, "train", NETWORK, fault=SmallNetwork())
    assert ended.code == 0, ended.errors
    histories, weights = [], []
    for folder in (one, trained[0]):
        histories.append(pd.read_csv(folder / "metrics" / f"{NETWORK}.history.csv").to_numpy())
        model = keras.models.load_model(folder / "models" / f"{NETWORK}.keras", compile=False)
        weights.append(model.get_weights())
    np.testing.assert_allclose(histories[1], histories[0], atol=2e-6)  # they have six digits
    for alone, together in zip(*weights, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    written = [file for file in trained[1].rglob("*") if file.is_file()]
    assert {file.relative_to(trained[1]).parts[0] for file in written} == {"data", "params.yaml"}


def test_a_machine_that_dies_ends_the_other_and_started_again_they_end_with_the_same_bytes(
    processes: ForkServerContext,
    params: Params,
    small_records: Path,
    trained: list[Path],
    tmp_path: Path,
) -> None:
    """The second one in a step, the first one while it saves the next state."""
    folders = _machines(params, small_records, tmp_path, "multi_worker")
    deaths = (
        (SmallNetwork(), Signal("step", STEPS + 2)),
        (Signal("write", 1), SmallNetwork()),
    )
    for epoch, faults in enumerate(deaths):
        ended = _train(processes, folders, *faults)
        survivor = ended.pop(epoch)
        assert survivor.code == 1, survivor.errors
        # The second machine has no state, and cannot tell.
        after = "epoch 1 of 3" if epoch == 0 else "worker 0's last epoch"
        assert survivor.errors.endswith(
            "train: another machine is gone, start all again; the same command with the same"
            f" parameters goes on after {after}\n"
        )
        assert "Traceback" not in survivor.errors
        assert ended[0].code == -9, ended[0].errors
    for ended_again in _train(processes, folders, SmallNetwork(), SmallNetwork()):
        assert ended_again.code == 0, ended_again.errors
    assert _outputs(folders[0]) == _outputs(trained[0])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_a_wrong_or_missing_tf_config_is_one_line(
    value: str, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", value)
    several = params.model_copy(update={"distribution": "multi_worker"})
    with pytest.raises(StageError, match=r"^the environment variable TF_CONFIG .*HOST:PORT[^\n]*$"):
        worker_index(several)
    assert worker_index(params) == 0


def test_another_configuration_than_worker_0s_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", tf.distribute.get_strategy)
    join_workers("ab" * 32)
    monkeypatch.setattr(loop, "value_of_worker_0", lambda *_: 0xCD)
    with pytest.raises(StageError, match="must be those of worker 0"):
        join_workers("ab" * 32)
