"""The pass over the test split, against TensorFlow and Keras on the whole split at once."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from stages.evaluate import measurement as measurement_module
from stages.evaluate.measurement import forward_function, measure
from stages.metrics.boundary import boundary_counts, boundary_f_score, silhouette
from stages.metrics.results import BOUNDARY_COLUMNS, confusion_of
from stages.records.manifest import BASELINE_FILE, Manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError
from tests.small_records import SIDE, write_records


def _model(size: int = 3, offset: tuple[float, ...] = (0, 0, 0), **options: object) -> keras.Model:
    """A network of one layer, whose logits differ from pixel to pixel."""
    keras.utils.set_random_seed(3)
    images = keras.Input((None, None, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    logits = keras.layers.Conv2D(3, size, padding="same", **options)(scaled)
    return keras.Model(images, logits + np.array(offset, np.float32))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network that gives other answers for the mirror image."""
    return _model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def small(folder: Path) -> Manifest:
    """The manifest of the records in `folder`."""
    return write_records(folder)


@pytest.mark.parametrize("flip", [False, True])
def test_counts_are_those_of_the_whole_split_at_once(
    model: keras.Model, folder: Path, small: Manifest, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurement_module, "BATCH_SIZE", 4)  # and a last batch of 2
    baseline = np.load(folder / BASELINE_FILE)
    found = measure(model, folder, small, baseline, extremes=3, flip=flip)
    images, masks = load_split(folder, small, "test")
    probabilities = softmax(model(images), axis=-1)
    if flip:
        mirrored = softmax(model(images[:, :, ::-1]), axis=-1)
        probabilities = (probabilities + mirrored[:, :, ::-1]) / 2
    prediction = probabilities.argmax(axis=-1)
    for table, classes in ((found.images, prediction), (found.baseline, [baseline] * 6)):
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

    assert found.images["file_name"].tolist() == [f"pet_{index}.jpg" for index in range(6)]
    assert found.images["species"].tolist() == ["Cat", "Dog"] * 3
    assert found.images["breed"].tolist() == ["tabby", "beagle", 'a,"b"'] * 2
    np.testing.assert_allclose(found.images["pet_share"], np.mean(masks != 1, axis=(1, 2)))
    order = found.images["mean_iou"].sort_values(kind="stable").index.tolist()
    assert [picture.position for picture in found.worst] == order[:3]
    assert [picture.position for picture in found.best] == order[::-1][:3]
    for picture in (*found.worst, *found.best):
        np.testing.assert_array_equal(picture.image, images[picture.position])
        np.testing.assert_array_equal(picture.mask, masks[picture.position])
        np.testing.assert_array_equal(picture.prediction, prediction[picture.position])


def test_of_equal_scores_the_earlier_image_comes_first(
    model: keras.Model, folder: Path, small: Manifest
) -> None:
    shards = small.splits["test"].shards[:1] * 2
    twice = small.splits["test"].model_copy(update={"examples": 6, "shards": shards})
    manifest = small.model_copy(update={"splits": {"test": twice}})
    found = measure(model, folder, manifest, np.load(folder / BASELINE_FILE), extremes=4)
    for pictures in (found.worst, found.best):
        first, second, third, fourth = (picture.position for picture in pictures)
        assert (second, fourth) == (first + 3, third + 3)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_stop_the_stage_and_name_the_image(
    folder: Path, small: Manifest, broken: float
) -> None:
    images = keras.Input((SIDE, SIDE, 3))
    # One logit of one pixel, in every image.
    place = np.zeros((SIDE, SIDE, 3), bool)
    place[5, 7, 1] = True
    model = keras.Model(images, keras.ops.where(place, broken, images))
    with pytest.raises(StageError, match=r"not finite for pet_0\.jpg: its weights are broken"):
        measure(model, folder, small, np.load(folder / BASELINE_FILE))


def test_an_empty_split_is_refused(model: keras.Model, folder: Path, small: Manifest) -> None:
    empty = small.splits["test"].model_copy(update={"examples": 0, "shards": []})
    without = small.model_copy(update={"splits": {"test": empty}})
    with pytest.raises(StageError, match="test split has no examples"):
        measure(model, folder, without, np.load(folder / BASELINE_FILE))


@pytest.mark.parametrize(
    ("flip", "offset", "true", "prediction", "confidence", "loss"),
    [
        (False, (0, 0, 0), 1, 0, 1 / 3, math.log(3)),  # of equal logits the first class wins
        (False, (-1e30, 0, 1e30), 2, 2, 1, 0),
        (False, (0, 300, -300), 0, 1, 1, 300),  # sure and wrong
        (True, (0, 300, -300), 0, 1, 1, 300),
    ],
)
def test_answers_of_a_network_with_the_same_logits_everywhere(
    flip: bool,
    offset: tuple[float, ...],
    true: int,
    prediction: int,
    confidence: float,
    loss: float,
) -> None:
    model = _model(1, offset, kernel_initializer="zeros")
    masks = np.full((1, 8, 8), true, np.uint8)
    found = forward_function(model, flip)(np.zeros((1, 8, 8, 3), np.uint8), masks)
    np.testing.assert_array_equal(found[0], np.full_like(masks, prediction))
    np.testing.assert_allclose(found[1], confidence, rtol=1e-6)
    np.testing.assert_allclose(found[2], loss, rtol=1e-5, atol=1e-6)
