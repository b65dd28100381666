import json
import multiprocessing
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import tensorflow as tf
import yaml
from ai_edge_litert.interpreter import Interpreter
from dvc.utils.hydra import apply_overrides
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from pets.segmentation import at_size
from stages.export import __main__ as export
from stages.export.formats import FORMATS, convert, in_float32
from stages.metrics.confusion import confusion_matrices, mean_iou
from stages.networks.conv_deconv import network as conv_deconv
from stages.networks.model_file import load_model, save_model
from stages.networks.unet import pix2pix
from stages.params import Params
from stages.records.manifest import Manifest, file_sha256
from stages.records.photograph import network_input
from stages.records.tfrecords import load_split
from stages.stage import StageError

NETWORK = "conv_deconv"


@pytest.fixture(scope="module")
def workspace(records: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stage has run once, on a network without training; read only."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(records, folder / "data/records")
    for name in ("models", "metrics"):
        (folder / name).mkdir()
    keras.utils.set_random_seed(7)
    model = conv_deconv.build(params.conv_deconv, 128, 3)
    # With larger weights every class is predicted somewhere.
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([8 * kernel, bias])
    save_model(model, folder / f"models/{NETWORK}.keras")
    values = params.model_dump()
    values["export"] |= {"calibration_images": 5, "max_iou_loss": 0.2}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    _run(folder)
    return folder


def _run(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["export", NETWORK])
        patch.setattr(export, "LATENCY_ROUNDS", 1)
        export.main()


@pytest.fixture(scope="module")
def model(workspace: Path) -> keras.Model:
    return load_model(workspace / f"models/{NETWORK}.keras")


@pytest.fixture(scope="module")
def exports(workspace: Path) -> Path:
    return workspace / f"models/{NETWORK}.export"


@pytest.fixture(scope="module")
def images(records: Path, manifest: Manifest) -> np.ndarray:
    return load_split(records, manifest, "test")[0]


def test_the_stage_writes_what_it_promises_and_nothing_else(workspace: Path, exports: Path) -> None:
    names = {row.file.format(network=NETWORK) for row in FORMATS.values()}
    assert {path.name for path in exports.iterdir()} == names | {"source.json"}
    present = {path.name for path in (workspace / "models").iterdir()}
    assert present == {f"{NETWORK}.keras", f"{NETWORK}.export"}
    source = json.loads((exports / "source.json").read_text())
    checksum = file_sha256(workspace / f"models/{NETWORK}.keras")
    assert source == {"file": f"{NETWORK}.keras", "sha256": checksum}


def test_metrics_are_those_of_the_whole_test_split_and_of_the_files(
    workspace: Path, exports: Path, model: keras.Model, records: Path, manifest: Manifest
) -> None:
    table = pd.read_csv(workspace / f"metrics/{NETWORK}.exports.csv", index_col="format")
    images, masks = load_split(records, manifest, "test")
    assert list(table.columns) == ["images", "bytes", "agreement", "mean_iou", "iou_loss"]
    assert list(table.index) == ["keras", *FORMATS]
    predicted = np.asarray(model(images)).argmax(axis=-1)
    expected = mean_iou(confusion_matrices(masks, predicted, 3).sum(axis=0))
    assert table.mean_iou["keras"] == pytest.approx(expected, abs=1e-5)
    assert (table.images == len(images)).all()
    least = {"keras": 1, "litert_float16": 0.99, "litert_dynamic": 0.98, "litert_int8": 0.8}
    assert all(table.agreement[name] >= least.get(name, 0.9999) for name in table.index)
    np.testing.assert_allclose(table.iou_loss, table.mean_iou["keras"] - table.mean_iou, atol=2e-6)
    for name in ("litert_float16", "onnx"):
        file = exports / FORMATS[name].file.format(network=NETWORK)
        assert table.bytes[name] == file.stat().st_size
    assert table.bytes["litert_float16"] < 0.55 * table.bytes["litert_float32"]
    for name in ("litert_dynamic", "litert_int8"):
        assert table.bytes[name] < 0.35 * table.bytes["litert_float32"]


def test_litert_files_take_one_image_and_onnx_any_number(
    model: keras.Model, exports: Path, images: np.ndarray
) -> None:
    expected = np.asarray(model(images))
    for kind, dtype in (("float32", np.float32), ("dynamic", np.float32), ("int8", np.uint8)):
        interpreter = Interpreter(str(exports / f"{NETWORK}.{kind}.tflite"))
        (taken,) = interpreter.get_input_details()
        assert taken["dtype"] is dtype
        assert taken["shape"].tolist() == [1, 128, 128, 3]
        logits = interpreter.get_signature_runner()(image=images[:1].astype(dtype))["logits"]
        assert np.abs(logits - expected[:1]).mean() < 0.3 * np.abs(expected).max()
    session = onnxruntime.InferenceSession(str(exports / f"{NETWORK}.onnx"))
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape) == ("image", ["batch", 128, 128, 3])
    (logits,) = session.run(["logits"], {"image": images[:5].astype(np.float32)})
    np.testing.assert_allclose(logits, expected[:5], atol=1e-3)


def test_the_saved_model_takes_photographs_of_any_size_as_pets_predict_does(
    model: keras.Model, exports: Path, images: np.ndarray
) -> None:
    serve = tf.saved_model.load(str(exports / "saved_model")).signatures["serving_default"]
    for size in ((128, 128), (300, 200), (97, 411), (60, 40), (1, 1)):
        photograph = Image.fromarray(images[0]).resize(size, Image.Resampling.BICUBIC)
        probabilities = tf.nn.softmax(model(network_input(photograph, 128)[None]))[0].numpy()
        expected = at_size(probabilities, photograph)
        pixels = np.asarray(photograph)
        answer = serve(images=tf.constant(np.stack([pixels, pixels[::-1]])))
        mask = answer["mask"].numpy()
        assert mask.dtype == np.uint8
        assert mask.shape == (2, *size[::-1])
        assert np.mean(mask[0] == expected.mask) > 0.99
        confidence = float(answer["confidence"][0].numpy().mean())
        assert confidence == pytest.approx(expected.confidence, abs=0.005)


def test_a_failed_stage_leaves_the_exports_that_were_there(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    apply_overrides(tmp_path / "params.yaml", ["export.formats=[onnx]", "export.max_iou_loss=0.0"])
    border = np.uint8(2)  # a few pixels have it
    broken = FORMATS["onnx"]._replace(
        load=lambda path: lambda images: np.full(images.shape[:3], border)
    )
    monkeypatch.setitem(FORMATS, "onnx", broken)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StageError, match=r"conv_deconv as onnx has a mean IoU of .*max_iou_loss"):
        _run(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_network_that_cannot_be_converted_says_which_format(tmp_path: Path) -> None:
    taken = keras.Input((32, 32, 3))
    # LiteRT has no inverse of the error function.
    model = keras.Model(taken, keras.ops.erfinv(taken / 300))
    with pytest.raises(StageError, match=r"litert_float32: .*leave litert_float32 out of export"):
        convert(model, "odd", ["litert_float32"], tmp_path, np.zeros((1, 32, 32, 3), np.uint8))


def export_small(folder: Path) -> None:
    """Write the network beside a folder into it, in all formats; called in two processes."""
    folder.mkdir()
    model = load_model(folder.parent / "small.keras")
    convert(model, "small", list(FORMATS), folder, np.zeros((2, 32, 32, 3), np.uint8))


def test_two_processes_export_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = keras.Input((32, 32, 3))
    x = taken
    # Several equal constants, of which a converter keeps one.
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    save_model(keras.Model(taken, keras.layers.Conv2D(3, 1)(x)), tmp_path / "small.keras")
    export_small(tmp_path / "one")
    # Python's sets of names have another order in each process.
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(export_small, tmp_path / "other").result()
    one, other = _contents(tmp_path / "one"), _contents(tmp_path / "other")
    assert len(one) == len(FORMATS) + 2  # a SavedModel is three files
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []


def _contents(folder: Path) -> dict[str, object]:
    """By file its bytes; without the numbers of functions, which are those of the process."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        if path.name == "saved_model.pb":
            text = str(SavedModel.FromString(path.read_bytes()))
            found[path.name] = sorted(re.sub(r"\d+", "", text).splitlines())
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_a_network_trained_in_mixed_precision_is_exported_in_float32(tmp_path: Path) -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        taken = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same")(taken / 255)
        # A model within the model, as the U-Net has them.
        x = pix2pix.upsample(8, 3)(x)
        model = keras.Model(taken, keras.layers.Conv2D(3, 1, dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy(policy)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    (path,) = convert(model, "mixed", ["litert_float32"], tmp_path, images).values()
    classify = FORMATS["litert_float32"].load(path)
    assert np.mean(classify(images) == model(images).numpy().argmax(-1)) > 0.98
    plain = in_float32(model)
    assert plain is not model
    assert in_float32(plain) is plain


def test_calibration_images_are_spread_over_the_training_split(
    workspace: Path, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    stored = load_split(records, manifest, "train")[0]
    last = len(stored) - 1
    found = export.calibration_images(manifest, 3)
    np.testing.assert_array_equal(found, stored[[0, last // 2, last]])
    assert len(export.calibration_images(manifest, 10_000)) == len(stored)
