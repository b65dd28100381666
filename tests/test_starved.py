"""Stages out of disk space, write access or memory: one clear line, and nothing is lost."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import yaml

from stages.params import Params
from stages.stage import run_stage
from tests.faults import Limit, SmallNetwork
from tests.stage_process import Ended, Stage

NETWORK = "conv_deconv"
STAGES = [("prepare",), ("train", NETWORK), ("evaluate", NETWORK), ("export", NETWORK), ("plot",)]


@pytest.fixture(scope="module")
def repository(processes: ForkServerContext, params: Params, tmp_path_factory: Any) -> Path:
    """A folder in which every stage has run once; read only."""
    folder = tmp_path_factory.mktemp("repository")
    changes = {"epochs": 1, "image_size": 32, "networks": ["conv_deconv"]}
    values = params.model_copy(update=changes).model_dump()
    values["export"]["formats"] = ["saved_model"]
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for stage in STAGES:
        ended = Stage(processes, folder, *stage, fault=SmallNetwork()).end()
        assert ended.code == 0, ended.errors
    return folder


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    """A copy of `repository`."""
    return Path(shutil.copytree(repository, tmp_path / "repository", symlinks=True))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and ".dvc" not in file.parts
    }


def _mount(folder: Path, *options: str) -> None:
    """Mounts what only the superuser can, or skips the test and says why."""
    command = ["mount", *options, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(repository: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of `repository` on a disk that has 12 KB left; `filler` is what may be removed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = 2 * sum(len(content) for content in _files(repository).values())
    _mount(folder, "-t", "tmpfs", "-o", f"size={size + 8_000_000}", "tmpfs")
    try:
        shutil.copytree(repository, folder, symlinks=True, dirs_exist_ok=True)
        free = os.statvfs(folder)
        (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 12 * 1024))
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
    if stage[0] in ("evaluate", "export"):  # of so small a network they write little
        (small_disk / "rest").write_bytes(bytes(12 * 1024))
    before = _files(small_disk)
    ended = Stage(processes, small_disk, *stage, fault=SmallNetwork()).end()
    _is_one_line(ended, stage[0], "No space left on device", "make room")
    assert "cannot be converted" not in ended.errors
    assert _files(small_disk) == before
    if stage[0] == "train":  # the others have nothing to go on from
        (small_disk / "filler").unlink()
        ended = Stage(processes, small_disk, *stage, fault=SmallNetwork()).end()
        assert ended.code == 0, ended.errors
        del before["filler"]
        assert _files(small_disk) == before


def test_files_that_may_not_grow_fail_like_a_full_disk(
    processes: ForkServerContext, folder: Path
) -> None:
    """The form that needs no mount, for the stages that trace no function: TensorFlow writes it."""
    before = _files(folder)
    for stage in ("prepare", "plot"):
        ended = Stage(processes, folder, stage, fault=Limit(resource.RLIMIT_FSIZE, 1000)).end()
        _is_one_line(ended, stage, "File too large", "make room")
        assert _files(folder) == before, stage


def test_a_read_only_checkout_is_one_line(processes: ForkServerContext, folder: Path) -> None:
    before = _files(folder)
    _mount(folder, "--bind", str(folder))
    try:
        _mount(folder, "-o", "remount,bind,ro")
        # The other stages write in the same way.
        ended = Stage(processes, folder, "train", NETWORK, fault=SmallNetwork()).end()
        _is_one_line(ended, "train", "Read-only file system", "make it writable")
        assert _files(folder) == before
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "")])
def test_too_little_memory_is_one_line(error: Exception) -> None:
    """As NumPy says it of a split, and TensorFlow in a step."""

    def allocate() -> None:
        raise error

    with pytest.raises(SystemExit, match=r"^train: there is not enough memory .*lower batch_size"):
        run_stage("train", allocate)


def test_a_training_that_is_far_too_large_for_its_memory_is_one_line(
    processes: ForkServerContext, folder: Path
) -> None:
    """Half a gigabyte beyond what the imports take, and images of 1024 x 1024."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values |= {"image_size": 1024, "batch_size": 10}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    limit = Limit(resource.RLIMIT_DATA, 1 << 30)
    ended = Stage(processes, folder, "prepare", fault=limit).end()
    assert ended.code == 0, ended.errors
    before = _files(folder)
    ended = Stage(processes, folder, "train", NETWORK, fault=limit).end()
    _is_one_line(ended, "train", "there is not enough memory", "lower batch_size or image_size")
    assert _files(folder) == before


def test_any_other_error_keeps_its_stack_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage("train", lambda: 1 / 0)
