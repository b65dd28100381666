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
    images = keras.Input((4, 4, 3), name="image")
    x = keras.layers.BatchNormalization(name="norm")(images)
    return keras.Model(images, keras.layers.Conv2D(3, 1, name="conv")(x), name="small")


def test_a_saved_model_is_the_same_network_without_optimizer_or_time() -> None:
    model = _small()
    model.compile("adam", "mse")
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    for name in ("model.keras", "again.keras"):
        save_model(model, Path(name))
        model = _small()  # the same weights, other objects
    loaded = load_model(Path("model.keras"))
    np.testing.assert_array_equal(loaded(images), model(images))
    assert not loaded.compiled
    with zipfile.ZipFile("model.keras") as archive:
        assert json.loads(archive.read("metadata.json"))["date_saved"] == ""
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
    assert Path("model.keras").read_bytes() == Path("again.keras").read_bytes()
    assert {file.name for file in Path().iterdir()} == {"model.keras", "again.keras"}


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


@pytest.mark.parametrize("kind", ["lambda", "hdf5", "pickle", "function", "class"])
def test_a_file_that_would_run_code_when_it_is_loaded_is_refused(kind: str) -> None:
    """Also a reference to a function, and to a class of any module."""
    path, trace = Path("evil.keras"), Path("trace")

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind in ("lambda", "hdf5"):
        images = keras.Input((8, 8, 3))
        model = keras.Model(images, keras.layers.Lambda(lambda x: x + 1)(images))
        file = Path("evil.h5" if kind == "hdf5" else "evil.keras")
        model.save(file)
        file.rename(path)
    else:
        layer: dict[str, Any] = {"module": "os", "class_name": "function", "config": "mkdir"}
        registered = {"registered_name": "Popen" if kind == "class" else "mkdir"}
        if kind == "class":
            command = {"args": ["touch", str(trace)]}
            layer = {"module": "subprocess", "class_name": "Popen", "config": command}
        save_model(_small(), Path("whole.keras"))
        with zipfile.ZipFile("whole.keras") as archive, zipfile.ZipFile(path, "w") as evil:
            for name in archive.namelist():
                content = archive.read(name)
                if name == "config.json":
                    config = json.loads(content)
                    config["config"]["layers"][1] |= layer | registered
                    content = json.dumps(config).encode()
                evil.writestr(name, content)
    with pytest.raises(StageError, match=r"evil\.keras is not a model that can be loaded safely"):
        load_model(path)
    assert not trace.exists()


def test_a_damaged_file_is_refused_in_one_line(params: Params) -> None:
    """One bit flipped, or cut off, at seeded places of the Conv-Deconv's file."""
    save_model(conv_deconv.build(params.conv_deconv, 32, 3), Path("whole.keras"))
    content = Path("whole.keras").read_bytes()
    draw = np.random.default_rng(0)
    path = Path("damaged.keras")
    for place in draw.integers(0, len(content), 40):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(draw.integers(8))
        for damaged in (bytes(flipped), content[:place]):
            path.write_bytes(damaged)
            with pytest.raises(StageError, match=r"^damaged\.keras is not a model that [^\n]*$"):
                load_model(path)
    path.unlink()
    with pytest.raises(StageError, match=r"no damaged\.keras: .*`make repro` trains it here"):
        load_model(path)
