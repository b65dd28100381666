"""What needs processes of its own: faults of stages, and training on two devices.

A stage that is killed ends with the same bytes when it runs again; one out of disk space, write
access or memory says so in one line. In both cases nothing is lost.
"""

import math
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import yaml
from mlflow import MlflowClient

from stages.params import Params, check_params
from stages.prepare.__main__ import write_records
from stages.records.manifest import read_manifest
from stages.train.loop import train
from tests.faults import Limit, Signal, SmallNetwork
from tests.kept_run import KeptRun
from tests.stage_process import Ended, end_of_stage

EPOCHS = 3
NETWORK = "conv_deconv"
TRAIN = ("train", NETWORK)
STAGES = [("prepare",), TRAIN, ("evaluate", NETWORK), ("export", NETWORK), ("plot",)]


@pytest.fixture(scope="module")
def repository(processes: ForkServerContext, params: Params, tmp_path_factory: Any) -> Path:
    """A folder in which every stage has run to its end; read only."""
    folder = tmp_path_factory.mktemp("repository")
    changes = {"epochs": EPOCHS, "image_size": 32, "ema_momentum": 0.8, "networks": [NETWORK]}
    values = params.model_copy(update=changes).model_dump()
    values[NETWORK]["learning_rate"] = 0.03
    values["export"]["formats"] = ["saved_model"]
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for stage in STAGES:
        ended = end_of_stage(processes, folder, *stage, fault=SmallNetwork())
        assert ended.code == 0, ended.errors
    return folder


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """A copy of `repository`."""
    return Path(shutil.copytree(repository, tmp_path / "repository"))


def _files(folder: Path, *patterns: str) -> dict[str, bytes]:
    """What lies in a folder, except hidden files and those in the making."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for pattern in patterns or ("**/*",)
        for file in folder.glob(pattern)
        if file.is_file() and not re.search(r"/\.|\.new\.", str(file))
    }


def _trained(folder: Path) -> dict[str, bytes]:
    return _files(folder, f"models/{NETWORK}.keras", f"metrics/{NETWORK}.history.csv")


def _train(processes: ForkServerContext, folder: Path, fault: SmallNetwork) -> Ended:
    """Remove the outputs as DVC does, and train."""
    for file in _trained(folder):
        (folder / file).unlink()
    return end_of_stage(processes, folder, *TRAIN, fault=fault)


def test_a_training_killed_or_interrupted_at_each_kind_of_moment_ends_with_the_same_bytes(
    processes: ForkServerContext, params: Params, repository: Path, folder: Path,
    empty_database: Path,
) -> None:  # fmt: skip
    """And goes on in its MLflow run; it does at most one epoch before it is ended again."""
    shutil.copy(empty_database, folder / "mlflow.db")
    images = read_manifest(folder / "data/records").splits["train"].examples
    first_epoch = math.ceil(images / params.batch_size)  # steps
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    for moment, number, kind, done in (
        ("step", first_epoch + 1, signal.SIGINT, 1),
        ("write", 1, signal.SIGKILL, 1),  # the state
        ("validation", 1, signal.SIGTERM, 1),
        ("replaced", 1, signal.SIGKILL, 2),  # the state
        ("write", 2, signal.SIGKILL, 3),  # the network
        ("replaced", 2, signal.SIGKILL, 3),  # the history
    ):
        ended = _train(processes, folder, Signal(moment, number, kind, tracked=True))
        if kind == signal.SIGKILL:
            assert ended.code == -kind, (moment, ended)
            continue
        assert ended.code == 1, ended  # were it to train to the end, it would be 0
        goes_on = f"the same command with the same parameters goes on after epoch {done} of 3"
        assert ended.errors.strip().splitlines()[-1] == f"train: interrupted; {goes_on}"
        assert "Traceback" not in ended.errors
        assert {run.info.status for run in client.search_runs(["1"])} == {"KILLED"}
    ended = _train(processes, folder, SmallNetwork(tracked=True))
    assert ended.code == 0, ended.errors
    assert f"conv_deconv goes on after epoch {EPOCHS} of {EPOCHS}" in ended.out
    assert _trained(folder) == _trained(repository)
    assert list(folder.glob(".dvc/tmp/training/*")) == []
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "val_loss")
    assert sorted({point.step for point in points}) == [1, 2, 3]
    assert len({(point.step, point.value) for point in points}) == 3
    history = (folder / "metrics" / f"{NETWORK}.history.csv").read_text()
    assert re.search(r"^epoch,loss,.*\n1(,\d\.\d{6}){6}\n", history)


def test_no_half_written_output_of_a_killed_stage_is_taken_for_a_whole_one(
    processes: ForkServerContext, folder: Path
) -> None:
    whole = _files(folder)
    splits = read_manifest(folder / "data/records").splits.values()
    shards = sum(len(split.shards) for split in splits)
    for stage, moments in (
        # Of the 18 examples the last are written; the last to get its name is the folder.
        (STAGES[0], [("example", 15), ("rename", shards + 1)]),
        (STAGES[2], [("write", 1), ("replaced", 3)]),
        (STAGES[4], [("write", 7)]),
    ):
        for moment in moments:
            ended = end_of_stage(processes, folder, *stage, fault=Signal(*moment))
            assert ended.code == -signal.SIGKILL, (moment, ended)
            assert _files(folder).items() <= whole.items()
        ended = end_of_stage(processes, folder, *stage, fault=SmallNetwork())
        assert ended.code == 0, ended.errors
        assert _files(folder) == whole
    assert [file for name in ("*.new.*", ".prepare-*") for file in folder.rglob(name)] == []


def _mount(folder: Path, *options: str) -> None:
    """Mount what only the superuser can, or skip the test and say why."""
    command = ["mount", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def small_disk(repository: Path, tmp_path_factory: Any) -> Iterator[Path]:
    """A copy of `repository` on a disk that has 4 KB left: at 0 TFDS would not even begin."""
    folder = tmp_path_factory.mktemp("disk")
    size = 2 * sum(len(content) for content in _files(repository).values())
    _mount(folder, "-t", "tmpfs", "-o", f"size={size + 8_000_000}", "tmpfs")
    try:
        shutil.copytree(repository, folder, dirs_exist_ok=True)
        free = os.statvfs(folder)
        (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 4096))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _is_one_line(ended: Ended, stage: str, *parts: str) -> None:
    """Exit status 1, and on standard error one line of the stage after warnings."""
    assert ended.code == 1, ended
    *warnings, line = ended.errors.strip().splitlines()
    assert line.startswith(f"{stage}: "), ended.errors
    assert all(part in line for part in parts), line
    assert all(warning.startswith("warning: ") for warning in warnings), ended.errors


@pytest.mark.parametrize("stage", STAGES, ids=[stage[0] for stage in STAGES])
def test_a_full_disk_is_one_line_and_leaves_the_outputs_before(
    processes: ForkServerContext, small_disk: Path, stage: tuple[str, ...]
) -> None:
    before = _files(small_disk)
    ended = end_of_stage(processes, small_disk, *stage, fault=SmallNetwork())
    _is_one_line(ended, stage[0], "No space left on device", "make room")
    assert "cannot be converted" not in ended.errors
    assert _files(small_disk) == before


def test_files_that_may_not_grow_fail_like_a_full_disk(
    processes: ForkServerContext, folder: Path
) -> None:
    """The form that needs no mount, for a stage that traces no function: TensorFlow writes it."""
    before = _files(folder)
    ended = end_of_stage(processes, folder, "prepare", fault=Limit(resource.RLIMIT_FSIZE, 1000))
    _is_one_line(ended, "prepare", "File too large", "make room")
    assert _files(folder) == before


def test_a_read_only_checkout_is_one_line(processes: ForkServerContext, folder: Path) -> None:
    before = _files(folder)
    _mount(folder, "--bind", str(folder))
    try:
        _mount(folder, "-o", "remount,bind,ro")
        # The other stages write in the same way.
        ended = end_of_stage(processes, folder, *TRAIN, fault=SmallNetwork())
        _is_one_line(ended, "train", "Read-only file system", "make it writable")
        assert _files(folder) == before
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_training_that_is_far_too_large_for_its_memory_is_one_line(
    processes: ForkServerContext, folder: Path
) -> None:
    """Half a gigabyte beyond what the imports take, and images of 1024 x 1024."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values |= {"image_size": 1024, "batch_size": 10}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    limit = Limit(resource.RLIMIT_DATA, 1 << 30)
    ended = end_of_stage(processes, folder, "prepare", fault=limit)
    assert ended.code == 0, ended.errors
    before = _files(folder)
    ended = end_of_stage(processes, folder, *TRAIN, fault=limit)
    _is_one_line(ended, "train", "there is not enough memory", "lower batch_size or image_size")
    assert _files(folder) == before


def _trainings(values: list[dict[str, Any]], records: Path) -> list[Any]:
    SmallNetwork()()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found = []
    for params in map(check_params, values):
        model, history = train(NETWORK, params, read_manifest(records), records, KeptRun())
        found.append((history, model.get_weights()))
    return found


def test_two_devices_train_what_one_trains_also_in_mixed_precision(
    processes: ForkServerContext, params: Params, scratch: Path, tmp_path: Path
) -> None:
    """With cross-entropy alone: Dice of two shares is not Dice of the whole."""
    even = params.model_copy(update={"validation_share": 0.45})  # 8 and 4 images
    write_records(even, tmp_path, scratch)
    plain = params.loss.model_copy(update={"dice_weight": 0.0, "border_weight": 1.0})
    mirrored = {"distribution": "mirrored"}
    values = [
        params.model_copy(update={"loss": plain, "ema_momentum": 0.5, **changes}).model_dump()
        for changes in ({}, mirrored, mirrored | {"precision": "mixed_float16"})
    ]
    with ProcessPoolExecutor(1, mp_context=processes) as process:
        (history, weights), *others = process.submit(_trainings, values, tmp_path).result()
    for tolerance, (other_history, other_weights) in zip((1e-4, 0.02), others, strict=True):
        for row, other in zip(history, other_history, strict=True):
            assert other == pytest.approx(row, rel=tolerance, abs=tolerance)
        for mine, theirs in zip(weights, other_weights, strict=True):
            # Batch statistics included: they are those of the whole batch.
            np.testing.assert_allclose(theirs, mine, rtol=10 * tolerance, atol=tolerance)
