"""The pass over the test split, against TensorFlow and Keras on the whole split at once."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from stages.evaluate.measurement import forward_function, measure
from stages.metrics.boundary import boundary_counts, boundary_f_score, silhouette
from stages.metrics.results import BOUNDARY_COLUMNS, confusion_of
from stages.records.manifest import BASELINE_FILE, Split, read_manifest
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
    """A folder of records of 6 images; read only."""
    folder = tmp_path_factory.mktemp("records")
    write_records(folder)
    return folder


@pytest.mark.parametrize("flip", [False, True])
def test_counts_are_those_of_the_whole_split_at_once(
    model: keras.Model, folder: Path, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.evaluate.measurement.BATCH_SIZE", 4)  # and a last batch of 2
    manifest, baseline = read_manifest(folder), np.load(folder / BASELINE_FILE)
    found = measure(model, folder, manifest, baseline, extremes=3, flip=flip)
    images, masks = load_split(folder, manifest, "test")
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
        for part, whole in zip(picture[2:], (images, masks, prediction), strict=True):
            np.testing.assert_array_equal(part, whole[picture.position])


def test_of_equal_scores_the_earlier_image_comes_first_and_an_empty_split_is_refused(
    model: keras.Model, folder: Path
) -> None:
    manifest, baseline = read_manifest(folder), np.load(folder / BASELINE_FILE)
    shards = manifest.splits["test"].shards[:1] * 2
    twice = manifest.model_copy(
        update={"splits": {"test": Split(examples=6, class_shares={}, shards=shards)}}
    )
    found = measure(model, folder, twice, baseline, extremes=4)
    for pictures in (found.worst, found.best):
        first, second, third, fourth = (picture.position for picture in pictures)
        assert (second, fourth) == (first + 3, third + 3)
    empty = manifest.model_copy(
        update={"splits": {"test": Split(examples=0, class_shares={}, shards=[])}}
    )
    with pytest.raises(StageError, match="test split has no examples"):
        measure(model, folder, empty, baseline)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_finite_stop_the_stage_and_name_the_image(
    folder: Path, broken: float
) -> None:
    images = keras.Input((SIDE, SIDE, 3))
    # One logit of one pixel, in every image.
    place = np.zeros((SIDE, SIDE, 3), bool)
    place[5, 7, 1] = True
    model = keras.Model(images, keras.ops.where(place, broken, images))
    with pytest.raises(StageError, match=r"not finite for pet_0\.jpg: its weights are broken"):
        measure(model, folder, read_manifest(folder), np.load(folder / BASELINE_FILE))


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
    masks = np.full((1, 8, 8), true, np.uint8)
    found = forward_function(model, flip)(np.zeros((1, 8, 8, 3), np.uint8), masks)
    np.testing.assert_array_equal(found[0], np.full_like(masks, prediction))
    np.testing.assert_allclose(found[1], confidence, rtol=1e-6)
    np.testing.assert_allclose(found[2], loss, rtol=1e-5, atol=1e-6)
