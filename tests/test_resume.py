"""A training that is interrupted at any moment ends with the bytes of one that never was."""

import contextlib
import dataclasses
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages.networks.model_file import save_model
from stages.params import Params
from stages.records.manifest import Manifest
from stages.train import __main__ as train_stage
from stages.train import resume
from stages.train.__main__ import build_network, train, write_history
from stages.train.resume import ResumePoint, TrainingState, configuration_digest
from tests.faults import small_network
from tests.kept_run import KeptRun

EPOCHS = 4


class _Interruption(keras.callbacks.Callback):
    """Raises what Ctrl-C and SIGTERM raise, when a method is called for the n-th time."""

    def __init__(self, method: str, number: int) -> None:
        super().__init__()
        self._left = number
        setattr(self, method, self._count)

    def _count(self, *arguments: object, **options: object) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def folders(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    if "expected" in request.fixturenames:
        monkeypatch.setattr(train_stage, "build_network", small_network)


@pytest.fixture(scope="module")
def configuration(params: Params) -> Params:
    """Every part that keeps something from step to step is on."""
    changes = {
        "epochs": EPOCHS,
        "ema_momentum": 0.8,
        "batch_norm_batches": 2,
        "conv_deconv": params.conv_deconv.model_copy(update={"learning_rate": 0.03}),
    }
    return params.model_copy(update=changes)


def _train(
    params: Params,
    manifest: Manifest,
    records: Path,
    *callbacks: keras.callbacks.Callback,
    network: str = "conv_deconv",
) -> bytes:
    """Trains with a resume point; the network's file and the history's."""
    keras.backend.clear_session()  # as in a new process, layers are named anew
    with ResumePoint(network, params, manifest) as point:
        model, history = train(network, params, manifest, records, KeptRun(), point, callbacks)
        save_model(model, Path("model.keras"))
        write_history(history, Path("history.csv"))
    return Path("model.keras").read_bytes() + Path("history.csv").read_bytes()


@pytest.fixture(scope="module")
def expected(
    configuration: Params, manifest: Manifest, records: Path, tmp_path_factory: Any
) -> bytes:
    """What a training gives that is not interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        patch.setattr(resume, "ROOT", Path.cwd())
        patch.setattr(train_stage, "build_network", small_network)
        return _train(configuration, manifest, records)


def _states() -> list[Path]:
    """The saved states and their folders; locks too, where no training holds them."""
    found = list(Path(".dvc/tmp/training").rglob("*"))
    return [path for path in found if path.suffix != ".lock" or not path.with_suffix("").exists()]


def test_an_interrupted_training_ends_with_the_same_bytes(
    configuration: Params, manifest: Manifest, records: Path, expected: bytes
) -> None:
    for moment in (("on_epoch_end", 2), ("on_train_batch_begin", 2), ("on_test_batch_end", 1)):
        with pytest.raises(KeyboardInterrupt):
            _train(configuration, manifest, records, _Interruption(*moment))
    assert _train(configuration, manifest, records) == expected
    assert _states() == []


def test_the_state_is_named_after_the_code_that_dvc_trains_anew_for(
    params: Params, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = resume.PIPELINE_FILE.parent
    shutil.copytree(root / "stages", tmp_path / "stages")
    shutil.copy(root / "dvc.yaml", tmp_path)
    monkeypatch.setattr(resume, "PIPELINE_FILE", tmp_path / "dvc.yaml")
    digest = configuration_digest("unet", params, manifest)
    for file, changes in {
        "plot.py": False,
        "report.py": False,
        "evaluate.py": False,
        "prepare.py": False,
        "networks/conv_deconv/network.py": False,
        "networks/unet/pix2pix.py": True,
        "augment.py": True,
        "train.py": True,
    }.items():
        path = tmp_path / "stages" / file
        before = path.read_text()
        path.write_text(before + "# An edit.\n")
        assert (configuration_digest("unet", params, manifest) != digest) == changes, file
        path.write_text(before)


def test_another_configuration_has_another_state(params: Params, manifest: Manifest) -> None:
    digest = configuration_digest("unet", params, manifest)
    same = {"networks": ["unet"], "extremes": 1, "test_time_flip": not params.test_time_flip}
    assert configuration_digest("unet", params.model_copy(update=same), manifest) == digest
    group = params.conv_deconv.model_copy(update={"learning_rate": 0.5})
    other = params.model_copy(update={"conv_deconv": group})
    assert configuration_digest("unet", other, manifest) == digest
    records = manifest.model_copy(update={"version": "0.0.0"})
    assert configuration_digest("unet", params, records) != digest
    assert configuration_digest("conv_deconv", params, manifest) != digest
    changes: list[dict[str, Any]] = [
        {"seed": 5},
        {"epochs": 99},
        {"batch_size": 3},
        {"unet": params.unet.model_copy(update={"learning_rate": 0.5})},
        {"loss": params.loss.model_copy(update={"dice_weight": 0.1})},
    ]
    for change in changes:
        changed = params.model_copy(update=change)
        assert configuration_digest("unet", changed, manifest) != digest, change


STATE = TrainingState(
    [np.arange(5, dtype=np.float32), np.array(7, np.int64)],
    [np.ones((2, 3), np.float32)],
    [{"epoch": 1, "val_loss": 0.1}],
    "the run",
)


def _point(params: Params, manifest: Manifest) -> ResumePoint:
    return ResumePoint("conv_deconv", params, manifest)


def _interrupted_with_a_state(params: Params, manifest: Manifest) -> Path:
    """Saves STATE and leaves as an interruption does; the state's file."""
    with contextlib.suppress(KeyboardInterrupt), _point(params, manifest) as point:
        point.save(STATE)
        raise KeyboardInterrupt
    (file,) = (path for path in _states() if path.is_file())
    return file


def test_a_state_comes_back_as_it_was_saved(params: Params, manifest: Manifest) -> None:
    _interrupted_with_a_state(params, manifest)
    with _point(params, manifest) as point:
        assert point.state is not None
        assert (point.state.history, point.state.run_id) == (STATE.history, STATE.run_id)
        for found, saved in ((point.state.variables, STATE.variables),
                             (point.state.best, STATE.best)):  # fmt: skip
            for one, other in zip(found, saved, strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
    assert _states() == []  # the training has succeeded


def test_a_second_training_of_the_configuration_leaves_the_state_alone(
    params: Params, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _interrupted_with_a_state(params, manifest)
    before = file.read_bytes()
    with contextlib.suppress(KeyboardInterrupt), _point(params, manifest):
        with _point(params, manifest) as second:
            assert "another training of the same configuration" in capsys.readouterr().err
            assert second.state is None
            second.save(dataclasses.replace(STATE, run_id="another"))
        assert file.read_bytes() == before
        raise KeyboardInterrupt
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_state_that_cannot_be_read_is_told_and_left_out(
    params: Params, manifest: Manifest, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _interrupted_with_a_state(params, manifest)
    content = bytearray(file.read_bytes())
    flipped = bytearray(content)
    flipped[content.index(STATE.variables[0].tobytes()) + 5] ^= 0xFF
    damaged = {
        "truncated": bytes(content[: len(content) // 2]),
        "flipped": bytes(flipped),
        "foreign": b"not a state",
        "empty": b"",
    }
    file.write_bytes(damaged[damage])
    with _point(params, manifest) as point:
        assert point.state is None
    assert "the training begins anew" in capsys.readouterr().err


def test_a_full_disk_keeps_the_state_before(
    params: Params,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = _interrupted_with_a_state(params, manifest)
    before = file.read_bytes()

    def full(path: Path, **arrays: object) -> None:
        path.write_bytes(b"the beginning")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with contextlib.suppress(KeyboardInterrupt), _point(params, manifest) as point:
        monkeypatch.setattr(np, "savez", full)
        point.save(dataclasses.replace(STATE, run_id="another"))
        assert "No space left on device" in capsys.readouterr().err
        assert point.finished_epochs == 1
        raise KeyboardInterrupt
    assert [path.read_bytes() for path in _states() if path.is_file()] == [before]


def test_a_unet_with_stored_statistics_goes_on_too(
    params: Params, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a copy of the state that a kill in the second epoch would leave."""
    monkeypatch.setattr(train_stage, "build_network", build_network)
    group = params.unet.model_copy(update={"encoder_batch_statistics": "stored"})
    changed = params.model_copy(update={"unet": group, "epochs": 2})
    copy = Path("state.npz")

    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            for file in Path(".dvc/tmp/training").rglob("state.npz"):
                copy.write_bytes(file.read_bytes())

    whole = _train(changed, manifest, records, Copy(), network="unet")
    with contextlib.suppress(KeyboardInterrupt), ResumePoint("unet", changed, manifest):
        (folder,) = (path for path in _states() if path.is_dir())
        (folder / "state.npz").write_bytes(copy.read_bytes())
        raise KeyboardInterrupt
    Path("model.keras").unlink()
    begun: list[int] = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    assert _train(changed, manifest, records, count, network="unet") == whole
    assert begun == [1]
