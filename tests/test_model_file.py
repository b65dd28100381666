"""A network's file: the same bytes for the same weights, and nothing else is loaded."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages.networks.conv_deconv import network as conv_deconv
from stages.networks.model_file import load_model, save_model
from stages.params import Params
from stages.stage import StageError, run_stage


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _small() -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 1, name="conv")(images)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(images, keras.layers.Conv2D(3, 1)(x))


def test_a_saved_model_is_the_same_network_without_optimizer_or_time(params: Params) -> None:
    model = conv_deconv.build(params.conv_deconv, 32, 3)
    model.compile("adam", "mse")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    path = Path("model.keras")
    save_model(model, path)
    loaded = load_model(path)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert not loaded.compiled
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("metadata.json"))["date_saved"] == ""
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
    assert [file.name for file in Path().iterdir()] == ["model.keras"]


def test_the_same_weights_give_the_same_bytes_after_other_models() -> None:
    files = []
    for name in ("first", "second"):
        keras.backend.clear_session()
        save_model(_small(), Path(f"{name}.keras"))
        files.append(Path(f"{name}.keras").read_bytes())
    assert files[0] == files[1]


def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    save_model(_small(), Path("whole.keras"))
    monkeypatch.setattr(zipfile.ZipFile, "read", full)
    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(SystemExit, match=r"^evaluate: there is not enough memory"):
        run_stage("evaluate", lambda: load_model(Path("whole.keras")))


@pytest.mark.parametrize("kind", ["lambda", "pickle", "function", "module", "hdf5", "zip"])
def test_a_file_that_would_run_code_when_it_is_loaded_is_refused(kind: str) -> None:
    """Also a reference to a function, and to a class of any module."""
    path, trace = Path("evil.keras"), Path("trace")

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "zip":
        path.write_bytes(b"PK\x03\x04 not an archive")
    elif kind in ("lambda", "hdf5"):
        images = keras.Input((8, 8, 3))
        model = keras.Model(images, keras.layers.Lambda(lambda x: x + 1)(images))
        model.save("evil.h5" if kind == "hdf5" else path)
        if kind == "hdf5":
            Path("evil.h5").rename(path)
    else:
        save_model(_small(), path)
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        module, name = ("os", "mkdir") if kind == "function" else ("subprocess", "Popen")
        config = json.loads(contents["config.json"])
        config["config"]["layers"][1] |= {
            "module": module,
            "class_name": name if kind == "module" else "function",
            "config": {"args": ["touch", str(trace)]} if kind == "module" else name,
            "registered_name": name,
        }
        contents["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in contents.items():
                archive.writestr(file, content)
    with pytest.raises(StageError, match=r"evil\.keras is not a model that can be loaded safely"):
        load_model(path)
    assert not trace.exists()


def test_a_damaged_file_is_refused_in_one_line(params: Params) -> None:
    """One bit flipped, or cut off, at seeded places of the Conv-Deconv's file."""
    save_model(conv_deconv.build(params.conv_deconv, 32, 3), Path("whole.keras"))
    content = Path("whole.keras").read_bytes()
    draw = np.random.default_rng(0)
    path = Path("damaged.keras")
    for place in draw.integers(0, len(content), 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(draw.integers(8))
        for damaged in (bytes(flipped), content[:place]):
            path.write_bytes(damaged)
            with pytest.raises(StageError, match=r"^damaged\.keras is not a model that [^\n]*$"):
                load_model(path)
    path.unlink()
    with pytest.raises(StageError, match=r"no damaged\.keras: .*`make repro` trains it here"):
        load_model(path)
