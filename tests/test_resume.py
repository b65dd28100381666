"""The saved state: what it is named after, what it keeps, and damage to it."""

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.params import Params
from stages.records.manifest import Manifest
from stages.train import state
from stages.train.state import StateFile, TrainingState, configuration_digest

STATE = TrainingState(
    [np.arange(5, dtype=np.float32), np.array(7, np.int64)],
    [np.ones((2, 3), np.float32)],
    [{"epoch": 1, "val_loss": 0.1}],
    "the run",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", tmp_path)


def _saved(params: Params, manifest: Manifest, *states: TrainingState) -> StateFile:
    """Enters, saves, and leaves as an interrupted training does."""
    saved = StateFile("conv_deconv", params, manifest)
    with suppress(KeyboardInterrupt), saved:
        for each in states:
            saved.save(each)
        raise KeyboardInterrupt
    return saved


def test_a_state_comes_back_as_it_was_saved(params: Params, manifest: Manifest) -> None:
    _saved(params, manifest, STATE)
    with StateFile("conv_deconv", params, manifest) as saved:
        np.testing.assert_equal(vars(saved.state), vars(STATE))
    assert saved.path.is_relative_to(state.ROOT)  # also where DVC runs it in a copy
    assert list(saved.path.parent.iterdir()) == []  # the training has succeeded


def test_a_second_training_of_the_configuration_leaves_the_state_alone(
    params: Params, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(params, manifest, STATE).path
    before = path.read_bytes()
    with suppress(KeyboardInterrupt), StateFile("conv_deconv", params, manifest):
        with StateFile("conv_deconv", params, manifest) as second:
            assert "another training of the same configuration" in capsys.readouterr().err
            assert second.state == TrainingState()
            second.save(replace(STATE, run_id="another"))
        raise KeyboardInterrupt
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "foreign", "details"])
def test_a_damaged_state_is_told_and_ignored(
    params: Params, manifest: Manifest, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(params, manifest, STATE).path
    content, values = path.read_bytes(), STATE.variables[0]
    if damage in ("foreign", "details"):
        arrays: dict[str, Any] = {damage: '{"variables": 0}'}
        np.savez(path, **arrays)
    elif damage == "changed":
        path.write_bytes(content.replace(values.tobytes(), (values + 1).tobytes()))
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    assert _saved(params, manifest).state == TrainingState()
    assert "the training starts from the beginning" in capsys.readouterr().err


def test_a_full_disk_keeps_the_state_before(
    params: Params,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = _saved(params, manifest, STATE)
    before = saved.path.read_bytes()

    def full(path: Path, *arrays: object, **details: object) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    assert _saved(params, manifest, replace(STATE, history=[])).state.history == STATE.history
    assert "No space left on device" in capsys.readouterr().err
    assert saved.path.read_bytes() == before
    assert {path.suffix for path in saved.path.parent.iterdir()} == {".npz", ".lock"}


def test_the_state_is_named_after_all_that_dvc_trains_again_for(
    params: Params, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = state.PIPELINE_FILE.parent
    shutil.copytree(root / "stages", tmp_path / "stages")
    shutil.copy(root / "dvc.yaml", tmp_path)
    monkeypatch.setattr(state, "PIPELINE_FILE", tmp_path / "dvc.yaml")
    digest = configuration_digest("unet", params, manifest)
    for file, changes in {
        "plot/__main__.py": False,
        "runs/tracking.py": False,
        "networks/conv_deconv/network.py": False,
        "networks/unet/pix2pix.py": True,
        "networks/model_file.py": True,
        "train/loop.py": True,
    }.items():
        path = tmp_path / "stages" / file
        before = path.read_text()
        path.write_text(before + "# An edit.\n")
        assert (configuration_digest("unet", params, manifest) != digest) == changes, file
        path.write_text(before)
    same = {"networks": ["unet"], "extremes": 1, "conv_deconv": params.unet}
    assert configuration_digest("unet", params.model_copy(update=same), manifest) == digest
    group = params.unet.model_copy(update={"learning_rate": 0.5})
    loss = params.loss.model_copy(update={"dice_weight": 0.1})
    for change in ({"seed": 5}, {"unet": group}, {"loss": loss}):
        changed = params.model_copy(update=change)
        assert configuration_digest("unet", changed, manifest) != digest, change
    records = manifest.model_copy(update={"version": "0.0.0"})
    assert configuration_digest("unet", params, records) != digest
    assert configuration_digest("conv_deconv", params, manifest) != digest
