"""The pass over the test split, and the stage from its inputs to the files in `dvc.yaml`."""

import json
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import softmax

from stages.evaluate import __main__ as evaluate
from stages.evaluate.measurement import forward_function, measure
from stages.metrics.boundary import boundary_counts, boundary_f_score, silhouette
from stages.metrics.results import BOUNDARY_COLUMNS, Results, confusion_of, read_images
from stages.networks.model_file import load_model, save_model
from stages.records.classes import class_rgb
from stages.records.manifest import BASELINE_FILE, EXAMPLES_FILE, read_manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError
from tests.small_records import SIDE, write_records

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 6
RECORDS = Path("data/records")


def _model(size: int = 3, offset: tuple[float, ...] = (0, 0, 0), **options: object) -> keras.Model:
    """A network of one layer, whose logits differ from pixel to pixel and if mirrored."""
    keras.utils.set_random_seed(3)
    images = keras.Input((SIDE, SIDE, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    logits = keras.layers.Conv2D(3, size, padding="same", **options)(scaled)
    return keras.Model(images, keras.layers.Rescaling(1, offset)(logits))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records and a network in which the stage has run; read only."""
    folder = tmp_path_factory.mktemp("evaluated")
    logged = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["evaluate", "unet"])
        patch.setattr(evaluate, "log_evaluation", lambda *values: logged.append(values))
        shutil.copy(ROOT / "params.yaml", folder)
        RECORDS.mkdir(parents=True)
        manifest = write_records(RECORDS, IMAGES)
        Path("models").mkdir()
        save_model(_model(), Path("models/unet.keras"))
        evaluate.main()
    ((network, _, of_records, model_path),) = logged
    assert (network, of_records, model_path) == ("unet", manifest, Path("models/unet.keras"))
    return folder


@pytest.fixture
def model(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """The network, in the folder of `evaluated`."""
    monkeypatch.chdir(evaluated)
    return load_model(Path("models/unet.keras"))


@pytest.mark.parametrize("flip", [False, True])
def test_counts_are_those_of_the_whole_split_at_once(
    model: keras.Model, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.evaluate.measurement.BATCH_SIZE", 4)  # and a last batch of 2
    manifest, baseline = read_manifest(), np.load(RECORDS / BASELINE_FILE)
    found = measure(model, RECORDS, manifest, baseline, extremes=3, flip=flip)
    images, masks = load_split(RECORDS, manifest, "test")
    probabilities = softmax(model(images), axis=-1)
    if flip:
        mirrored = softmax(model(images[:, :, ::-1]), axis=-1)
        probabilities = (probabilities + mirrored[:, :, ::-1]) / 2
    prediction = probabilities.argmax(axis=-1)
    for table, classes in ((found.images, prediction), (found.baseline, [baseline] * IMAGES)):
        for matrix, mask, predicted in zip(confusion_of(table), masks, classes, strict=True):
            expected = tf.math.confusion_matrix(mask.ravel(), predicted.ravel(), 3)
            np.testing.assert_array_equal(matrix, expected)
    scores = boundary_f_score(boundary_counts(silhouette(masks), silhouette(prediction)))
    np.testing.assert_array_equal(found.images[BOUNDARY_COLUMNS], scores)
    losses = keras.losses.sparse_categorical_crossentropy(masks, probabilities)
    np.testing.assert_allclose(found.images["loss"], np.mean(losses, axis=(1, 2)), rtol=1e-4)
    pixels, confidence, correct = found.reliability.sum(axis=(0, 1))
    assert (pixels, correct) == (masks.size, np.sum(prediction == masks))
    assert confidence == pytest.approx(probabilities.max(axis=-1).sum(), rel=1e-5)

    assert found.images["file_name"].tolist() == [f"pet_{index}.jpg" for index in range(IMAGES)]
    assert found.images["species"].tolist() == ["Cat", "Dog"] * 3
    assert found.images["breed"].tolist() == ["tabby", "beagle", 'a,"b"'] * 2
    np.testing.assert_allclose(found.images["pet_share"], np.mean(masks != 1, axis=(1, 2)))
    order = found.images["mean_iou"].sort_values(kind="stable").index
    pixels = np.concatenate([images, class_rgb()[masks], class_rgb()[prediction]], axis=2)
    for rows, expected in ((found.worst, order[:3]), (found.best, order[::-1][:3])):
        assert [row["file_name"] for row in rows] == [f"pet_{index}.jpg" for index in expected]
        np.testing.assert_array_equal([row["pixels"] for row in rows], pixels[expected])


@pytest.mark.parametrize(
    ("flip", "offset", "true", "prediction", "confidence", "loss"),
    [
        (False, (0, 0, 0), 1, 0, 1 / 3, math.log(3)),  # of equal logits the first class wins
        (False, (-1e30, 0, 1e30), 2, 2, 1, 0),
        (True, (0, 300, -300), 0, 1, 1, 300),  # sure and wrong
    ],
)
def test_answers_of_a_network_with_the_same_logits_everywhere(
    flip: bool, offset: tuple, true: int, prediction: int, confidence: float, loss: float
) -> None:
    model = _model(1, offset, kernel_initializer="zeros")
    masks = np.full((1, SIDE, SIDE), true, np.uint8)
    found = forward_function(model, flip)(np.zeros((1, SIDE, SIDE, 3), np.uint8), masks)
    np.testing.assert_array_equal(found[0], np.full_like(masks, prediction))
    np.testing.assert_allclose(found[1], confidence, rtol=1e-6)
    np.testing.assert_allclose(found[2], loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_stop_the_stage_and_name_the_image(
    model: keras.Model, broken: float
) -> None:
    images = keras.Input((SIDE, SIDE, 3))
    place = np.zeros((SIDE, SIDE, 3), bool)  # one logit of one pixel, in every image
    place[5, 7, 1] = True
    model = keras.Model(images, keras.ops.where(place, broken, images))
    with pytest.raises(StageError, match=r"not finite for pet_0\.jpg: its weights are broken"):
        measure(model, RECORDS, read_manifest(), np.load(RECORDS / BASELINE_FILE))


def test_the_files_of_the_stage_say_the_same(model: keras.Model) -> None:
    found = Results.read(Path("metrics/unet.json"), "evaluate@unet")
    table = read_images(Path("metrics/unet.images.csv"), "evaluate@unet")
    assert found.images == len(table) == IMAGES
    np.testing.assert_array_equal(confusion_of(table).sum(axis=0), found.confusion_matrix)
    assert found.loss == pytest.approx(table["loss"].mean(), abs=1e-6)
    assert table["breed"].tolist() == ["tabby", "beagle", 'a,"b"'] * 2
    summary = json.loads(Path("metrics/unet.summary.json").read_text())
    headlines = {"accuracy": found.accuracy, "mean_iou": found.mean_iou}
    assert summary == {"unet": headlines | {"boundary_f": found.boundary_f["2px"]}}

    order = table["mean_iou"].sort_values(kind="stable").index[:4]
    assert [row.file_name for row in found.worst] == table["file_name"][order].tolist()
    images, _ = load_split(RECORDS, read_manifest(), "test")
    rows = np.asarray(Image.open("metrics/unet.worst.png")).reshape(4, SIDE, 3 * SIDE, 3)
    np.testing.assert_array_equal(rows[:, :, :SIDE], images[order])
    column = Image.open("metrics/unet.examples.png")
    assert column.mode == "P"
    images = np.load(RECORDS / EXAMPLES_FILE)["test_images"]
    mirrored = softmax(model(images[:, :, ::-1]), axis=-1)[:, :, ::-1]  # test_time_flip
    predicted = (softmax(model(images), axis=-1) + mirrored).argmax(axis=-1)
    np.testing.assert_array_equal(np.asarray(column).reshape(predicted.shape), predicted)


def test_missing_and_damaged_files_are_named_with_what_makes_them(
    evaluated: Path, tmp_path: Path
) -> None:
    results = (evaluated / "metrics/unet.json").read_bytes()
    table = (evaluated / "metrics/unet.images.csv").read_bytes()
    path = tmp_path / "file"
    for read, content in [
        (Results.read, None),
        (Results.read, results[: len(results) // 2]),
        (Results.read, results.replace(b'"loss": ', b'"loss": "x", "y": ', 1)),
        (read_images, table.replace(b",0.", b",x.")),
        (read_images, table.replace(b"loss", b"cost")),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StageError) as error:
            read(path, "evaluate@unet")
        message = f"{path} is missing or damaged; `dvc repro -f evaluate@unet` makes it again"
        assert str(error.value) == message
