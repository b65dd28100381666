"""The saved state: what it is named after, what it keeps, and damage to it."""

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages.params import Params
from stages.records.manifest import Manifest
from stages.train import state
from stages.train.loop import Trainer, assign, prepare_devices
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
    saved = StateFile("conv_deconv", params, manifest)
    with saved:
        assert saved.state is not None
        assert (saved.state.history, saved.state.run_id) == (STATE.history, STATE.run_id)
        for name in ("variables", "best"):
            for found, kept in zip(getattr(saved.state, name), getattr(STATE, name), strict=True):
                assert found.dtype == kept.dtype
                np.testing.assert_array_equal(found, kept)
    assert list(saved.path.parent.iterdir()) == []  # the training has succeeded


def test_a_second_training_of_the_configuration_leaves_the_state_alone(
    params: Params, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(params, manifest, STATE).path
    before = path.read_bytes()
    with suppress(KeyboardInterrupt), StateFile("conv_deconv", params, manifest):
        second = StateFile("conv_deconv", params, manifest)
        with second:
            assert "another training of the same configuration" in capsys.readouterr().err
            assert second.state is None
            second.save(replace(STATE, run_id="another"))
        assert path.read_bytes() == before
        raise KeyboardInterrupt
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "array", "details"])
def test_a_damaged_state_is_told_and_ignored(
    params: Params, manifest: Manifest, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _saved(params, manifest, STATE).path
    content = path.read_bytes()
    place = content.index(STATE.variables[0].tobytes()) + 5
    flipped = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    damaged = {"truncated": content[: len(content) // 2], "flipped": flipped, "empty": b""}
    if damage in ("array", "details"):
        arrays: dict[str, Any] = {damage: np.array('{"variables": 0}')}
        np.savez(path, **arrays)
    else:
        path.write_bytes(damaged.get(damage, b"not a state"))
    assert _saved(params, manifest).state is None
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
    assert _saved(params, manifest, replace(STATE, history=[])).epochs == 1
    assert "No space left on device" in capsys.readouterr().err
    assert saved.path.read_bytes() == before
    assert {path.suffix for path in saved.path.parent.iterdir()} == {".npz", ".lock"}


def test_the_state_is_named_after_the_code_that_dvc_trains_again_for(
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


def test_another_configuration_has_another_state(params: Params, manifest: Manifest) -> None:
    digest = configuration_digest("unet", params, manifest)
    group = params.conv_deconv.model_copy(update={"learning_rate": 0.5})
    same = {"networks": ["unet"], "extremes": 1, "conv_deconv": group}
    assert configuration_digest("unet", params.model_copy(update=same), manifest) == digest
    records = manifest.model_copy(update={"version": "0.0.0"})
    assert configuration_digest("unet", params, records) != digest
    assert configuration_digest("conv_deconv", params, manifest) != digest
    changes: list[dict[str, Any]] = [
        {"seed": 5},
        {"unet": params.unet.model_copy(update={"learning_rate": 0.5})},
        {"loss": params.loss.model_copy(update={"dice_weight": 0.1})},
    ]
    for change in changes:
        changed = params.model_copy(update=change)
        assert configuration_digest("unet", changed, manifest) != digest, change


def test_a_unet_goes_on_from_its_variables(params: Params, manifest: Manifest) -> None:
    """With stored statistics and averages: two steps equal one, saved, and one of a new trainer."""
    group = {"encoder_batch_statistics": "stored", "encoder_weights": "none"}
    changes = {"unet": params.unet.model_copy(update=group), "ema_momentum": 0.9}
    changed = params.model_copy(update=changes | {"warmup_epochs": 0})
    small = manifest.model_copy(update={"image_size": 32})
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2, 2, 32, 32, 3)).astype(np.float32)
    masks = draw.integers(0, 3, (2, 2, 32, 32)).astype(np.uint8)
    ends = []
    values: list[np.ndarray] = []
    for steps in ([0, 1], [1]):
        keras.backend.clear_session()
        prepare_devices(changed)
        trainer = Trainer("unet", changed, small, steps=2)
        if values:
            assign(trainer.variables, values)
        for step in steps:
            if step == 1 and not values:
                values = [variable.numpy() for variable in trainer.variables]
            trainer.step(images[step], masks[step])
        ends.append([variable.numpy() for variable in trainer.variables])
    for whole, resumed in zip(*ends, strict=True):
        np.testing.assert_array_equal(whole, resumed)
    assert any((end != value).any() for end, value in zip(ends[0], values, strict=True))
