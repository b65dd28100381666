import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import yaml
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from pets.prediction import at_own_size
from stages.evaluate.__main__ import write_json
from stages.evaluate.measurement import measure
from stages.evaluate.results import results
from stages.export import __main__ as export
from stages.export import model_card
from stages.export.conversion import convert, in_float32
from stages.export.export_files import FILES, SOURCE_FILE, is_made_from
from stages.export.runtimes import Classify, load_export, median_latencies
from stages.metrics.comparison import read_results
from stages.networks.conv_deconv import network as conv_deconv
from stages.networks.model_file import save_model
from stages.networks.unet import pix2pix
from stages.params import Params
from stages.records.manifest import BASELINE_FILE, Manifest
from stages.records.resizing import network_input
from stages.records.tfrecords import load_split
from stages.stage import StageError

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "conv_deconv"


@pytest.fixture(scope="module")
def model(params: Params) -> keras.Model:
    """Conv-Deconv without training: it knows nothing, and tells every class somewhere."""
    keras.utils.set_random_seed(7)
    model = conv_deconv.build(params.conv_deconv, 128, 3)
    # Without its bias the last layer gives the same class nearly everywhere.
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([8 * kernel, bias])
    return model


@pytest.fixture(scope="module")
def workspace(
    model: keras.Model, records: Path, manifest: Manifest, params: Params,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """Where the stage has run once; read only."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(records, folder / "data/records")
    (folder / "models").mkdir()
    (folder / "metrics").mkdir()
    save_model(model, folder / f"models/{NETWORK}.keras")
    measurement = measure(model, records, manifest, np.load(records / BASELINE_FILE))
    write_json(results(measurement, manifest, 0), folder / f"metrics/{NETWORK}.json")
    values = params.model_dump()
    values["export"] |= {"calibration_pictures": 5, "max_iou_loss": 0.2}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["export", NETWORK])
        export.main()
    return folder


@pytest.fixture(scope="module")
def exports(workspace: Path) -> Path:
    return workspace / f"models/{NETWORK}.export"


@pytest.fixture(scope="module")
def images(records: Path, manifest: Manifest) -> np.ndarray:
    return load_split(records, manifest, "test")[0]


def _figures(workspace: Path) -> dict:
    with (workspace / f"metrics/{NETWORK}.exports.csv").open(newline="") as file:
        rows = {row.pop("format"): row for row in csv.DictReader(file)}
    return {name: {key: float(value) for key, value in row.items()} for name, row in rows.items()}


def test_the_stage_writes_what_it_promises_and_nothing_else(workspace: Path, exports: Path) -> None:
    names = {name.format(network=NETWORK) for name in FILES.values()}
    assert {path.name for path in exports.iterdir()} == names | {"README.md", SOURCE_FILE}
    assert {path.name for path in (workspace / "models").iterdir()} == {
        f"{NETWORK}.keras", f"{NETWORK}.export"
    }  # fmt: skip
    record = json.loads((workspace / f".dvc/tmp/stages/export@{NETWORK}.json").read_text())
    assert set(record["latency_ms"]) == {"keras", *FILES}
    assert all(value > 0 for value in record["latency_ms"].values())


def test_the_folder_says_which_networks_file_it_was_made_from(
    workspace: Path, exports: Path, tmp_path: Path
) -> None:
    model = workspace / f"models/{NETWORK}.keras"
    assert is_made_from(exports, model)
    source = json.loads((exports / SOURCE_FILE).read_text())
    assert source == {
        "file": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()
    }  # fmt: skip
    other = tmp_path / model.name
    other.write_bytes(model.read_bytes() + b"0")
    assert not is_made_from(exports, other)


def test_figures_are_those_of_evaluate_and_of_the_files(workspace: Path, exports: Path) -> None:
    figures = _figures(workspace)
    measured = json.loads((workspace / f"metrics/{NETWORK}.json").read_text())
    assert list(figures) == ["keras", *FILES]
    assert figures["keras"]["mean_iou"] == measured["mean_iou"]
    assert figures["keras"]["agreement"] == 1
    for name in ("saved_model", "litert_float32", "onnx"):
        assert figures[name]["agreement"] > 0.9999
    assert figures["litert_float16"]["agreement"] > 0.99
    assert figures["litert_int8"]["agreement"] > 0.8
    for name, value in figures.items():
        loss = figures["keras"]["mean_iou"] - value["mean_iou"]
        assert value["iou_loss"] == pytest.approx(loss, abs=2e-6), name
    for name in ("litert_float16", "onnx"):
        file = exports / FILES[name].format(network=NETWORK)
        assert figures[name]["bytes"] == file.stat().st_size
    whole = figures["litert_float32"]["bytes"]
    assert figures["litert_float16"]["bytes"] < 0.55 * whole
    assert figures["litert_int8"]["bytes"] < 0.35 * whole


def test_litert_files_run_in_the_interpreter(
    model: keras.Model, exports: Path, images: np.ndarray
) -> None:
    expected = np.asarray(model(images[:1]))
    for kind, dtype, tolerance in (("float32", np.float32, 1e-4), ("int8", np.uint8, 0.3)):
        interpreter = Interpreter(str(exports / f"{NETWORK}.{kind}.tflite"))
        interpreter.allocate_tensors()
        (taken,) = interpreter.get_input_details()
        assert taken["dtype"] is dtype
        assert taken["shape"].tolist() == [1, 128, 128, 3]
        interpreter.set_tensor(taken["index"], images[:1].astype(dtype))
        interpreter.invoke()
        logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        assert np.abs(logits - expected).mean() < tolerance * np.abs(expected).max()


def test_onnx_takes_any_number_of_pictures(
    model: keras.Model, exports: Path, images: np.ndarray
) -> None:
    session = onnxruntime.InferenceSession(str(exports / f"{NETWORK}.onnx"))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("image", ["batch", 128, 128, 3])
    assert given.name == "logits"
    for count in (1, 5):
        (logits,) = session.run(None, {"image": images[:count].astype(np.float32)})
        np.testing.assert_allclose(logits, model(images[:count]), atol=1e-3)


@pytest.mark.parametrize("size", [(128, 128), (300, 200), (97, 411), (60, 40), (1, 1)])
def test_the_saved_model_takes_photographs_of_any_size_as_pets_predict_does(
    model: keras.Model, exports: Path, images: np.ndarray, size: tuple[int, int]
) -> None:
    photograph = Image.fromarray(images[0]).resize(size, Image.Resampling.BICUBIC)
    probabilities = tf.nn.softmax(model(network_input(photograph, 128)[None]))[0].numpy()
    expected = at_own_size(probabilities, size)
    serve = tf.saved_model.load(str(exports / "saved_model")).signatures["serving_default"]
    pixels = np.asarray(photograph)
    answer = serve(images=tf.constant(np.stack([pixels, pixels[::-1]])))
    mask = answer["mask"].numpy()
    assert mask.dtype == np.uint8
    assert mask.shape == (2, *size[::-1])
    assert np.mean(mask[0] == expected.mask) > 0.99
    assert float(answer["confidence"][0].numpy().mean()) == pytest.approx(
        expected.confidence, abs=0.005
    )


def test_an_export_that_loses_too_much_fails_the_stage(workspace: Path) -> None:
    figures = {"formats": _figures(workspace)}
    figures["formats"]["litert_int8"] |= {"mean_iou": 0.25, "iou_loss": 0.0301}
    export.check(NETWORK, figures, 0.031)
    with pytest.raises(StageError, match=r"conv_deconv as litert_int8 .*0\.25.*max_iou_loss"):
        export.check(NETWORK, figures, 0.03)


def test_a_failed_stage_leaves_the_exports_that_were_there(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", NETWORK])
    (tmp_path / f"metrics/{NETWORK}.json").write_text("{}")
    before = set((tmp_path / "models").rglob("*"))
    with pytest.raises(StageError, match="dvc repro -f evaluate@conv_deconv"):
        export.main()
    assert set((tmp_path / "models").rglob("*")) == before


def test_a_network_that_cannot_be_converted_says_which_format(
    tmp_path: Path, images: np.ndarray
) -> None:
    taken = keras.Input((128, 128, 3))
    # LiteRT has no inverse of the error function.
    model = keras.Model(taken, keras.ops.erfinv(taken / 300))
    with pytest.raises(StageError, match=r"litert_float32: .*leave litert_float32 out of export"):
        convert(model, "odd", ["litert_float32"], tmp_path, images)


def test_two_processes_export_the_same_bytes_and_say_nothing(tmp_path: Path) -> None:
    taken = keras.Input((32, 32, 3))
    x = taken
    # Several equal constants, of which a converter keeps one.
    for _ in range(4):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU(6)(keras.layers.BatchNormalization()(x))
    save_model(keras.Model(taken, keras.layers.Conv2D(3, 1)(x)), tmp_path / "small.keras")
    program = (
        "from pathlib import Path; import numpy as np\n"
        "from stages.conversion import convert; from stages.export_files import FILES\n"
        "from stages.model_file import load_model\n"
        "model = load_model(Path('../small.keras'))\n"
        "convert(model, 'small', list(FILES), Path(), np.zeros((2, 32, 32, 3), np.uint8))"
    )
    written = []
    # Python's sets of names have another order for each seed.
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        # Converters have nothing to say of a network that they can convert.
        assert (ran.stdout, ran.stderr) == ("", "")
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        written.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    one, other = written
    assert len(one) == len(FILES) + 2  # a SavedModel is three files
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []


def test_a_network_trained_in_mixed_precision_is_exported_in_float32(
    tmp_path: Path, images: np.ndarray
) -> None:
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
    (path,) = convert(model, "mixed", ["litert_float32"], tmp_path, images).values()
    small = np.ascontiguousarray(images[:2, ::4, ::4])
    agreement = np.mean(
        load_export("litert_float32", path)(small) == model(small).numpy().argmax(-1)
    )
    assert agreement > 0.98
    plain = in_float32(model)
    assert plain is not model
    assert in_float32(plain) is plain


def test_calibration_pictures_are_spread_over_the_training_split(
    workspace: Path, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    stored = load_split(records, manifest, "train")[0]
    last = len(stored) - 1
    np.testing.assert_array_equal(
        export.calibration_pictures(manifest, 3), stored[[0, last // 2, last]]
    )
    assert len(export.calibration_pictures(manifest, 10_000)) == len(stored)


def test_latencies_are_measured_in_turn() -> None:
    calls: list[str] = []

    def classifier(name: str) -> Classify:
        def classify(images: np.ndarray) -> np.ndarray:
            calls.append(name)
            return images[..., 0]

        return classify

    image = np.zeros((1, 4, 4, 3), np.uint8)
    found = median_latencies({name: classifier(name) for name in "abc"}, image, 2)
    assert "".join(calls) == "abcabcabc"
    assert set(found) == {"a", "b", "c"}


def test_the_card_says_what_was_measured(workspace: Path, exports: Path) -> None:
    text = (exports / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", maxsplit=2)
    measured = json.loads((workspace / f"metrics/{NETWORK}.json").read_text())
    (entry,) = yaml.safe_load(front)["model-index"]
    values = {m["type"]: m["value"] for m in entry["results"][0]["metrics"]}
    assert values == {"mean_iou": measured["mean_iou"], "accuracy": measured["accuracy"]}
    low, high = measured["intervals"]["mean_iou"]
    assert f"| mean IoU | {measured['mean_iou']:.3f} | {low:.3f} to {high:.3f} |" in body
    for heading in ("Intended use", "Data", "Figures", "Where it fails", "Files"):
        assert f"\n## {heading}\n" in body
    for path in exports.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in body
    assert "drawn by the repository" in body


def test_the_card_names_the_weakest_slices_and_the_terms_of_the_data(
    workspace: Path, manifest: Manifest
) -> None:
    found = read_results(workspace / f"metrics/{NETWORK}.json", "evaluate")
    # Of ten pictures each, so that they say something.
    scores = {"a": 0.4, "b": 0.2, "c|d": 0.3}
    part = next(iter(found.slices["species"].values()))
    slices = {
        name: part.model_copy(update={"images": 10, "few": False, "mean_iou": score})
        for name, score in scores.items()
    }
    few = part.model_copy(update={"few": True, "mean_iou": 0.01})
    real = manifest.model_copy(update={"dataset": "oxford_iiit_pet", "version": "4.0.0"})
    text = model_card.card(
        "unet",
        found.model_copy(update={"slices": {"breed": slices | {"rare": few}}, "mean_iou": 0.1}),
        real,
        {"formats": _figures(workspace)},
        {},
        flip=True,
        encoder_weights="imagenet",
    )
    rows = [line for line in text.splitlines() if line.startswith("| breed: ")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| breed: b", r"| breed: c\|d", "| breed: a"
    ]  # fmt: skip
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "cc-by-sa-4.0"
    assert "CC BY-SA 4.0" in text
    assert "weights trained on ImageNet" in text
    assert "the mean over each picture and its mirror image" in text
    assert "has not learned enough to be used" in text
