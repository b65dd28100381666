import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from stages.evaluate.__main__ import predict
from stages.evaluate.measurement import Measurement, forward_function, measure
from stages.metrics.boundary import boundary_counts, silhouette
from stages.metrics.calibration import expected_calibration_error
from stages.networks.model_file import prediction_function
from stages.records.manifest import BASELINE_FILE, Manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network of one layer, whose logits differ from pixel to pixel."""
    keras.utils.set_random_seed(3)
    images = keras.Input((128, 128, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    return keras.Model(images, keras.layers.Conv2D(3, 5, padding="same")(scaled))


@pytest.fixture(scope="module")
def baseline(records: Path) -> np.ndarray:
    return np.load(records / BASELINE_FILE)


@pytest.fixture(scope="module")
def measurement(
    model: keras.Model, records: Path, manifest: Manifest, baseline: np.ndarray
) -> Measurement:
    return measure(model, records, manifest, baseline, extremes=2)


def test_the_baseline_is_the_most_frequent_class_at_each_position_of_the_training_masks(
    records: Path, manifest: Manifest, baseline: np.ndarray
) -> None:
    _, masks = load_split(records, manifest, "train")
    assert baseline.dtype == np.uint8
    for row, column in [(0, 0), (64, 64), (100, 30), (127, 127)]:
        counts = np.bincount(masks[:, row, column], minlength=3)
        assert counts[baseline[row, column]] == counts.max()


def test_counts_are_those_of_the_whole_split_at_once(
    model: keras.Model,
    measurement: Measurement,
    records: Path,
    manifest: Manifest,
    baseline: np.ndarray,
) -> None:
    images, masks = load_split(records, manifest, "test")
    logits = model(images)
    prediction = np.argmax(logits, axis=-1)
    for index in range(len(images)):
        np.testing.assert_array_equal(
            measurement.matrices[index],
            tf.math.confusion_matrix(masks[index].ravel(), prediction[index].ravel(), 3),
        )
        np.testing.assert_array_equal(
            measurement.baseline_matrices[index],
            tf.math.confusion_matrix(masks[index].ravel(), baseline.ravel(), 3),
        )
    losses = keras.losses.sparse_categorical_crossentropy(masks, logits, from_logits=True)
    np.testing.assert_allclose(measurement.losses, np.mean(losses, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(
        measurement.boundaries, boundary_counts(silhouette(masks), silhouette(prediction))
    )
    probabilities = np.asarray(keras.ops.softmax(logits))
    counts = measurement.reliability.sum(axis=0)
    assert counts[:, 0].sum() == masks.size
    assert counts[:, 1].sum() == pytest.approx(probabilities.max(axis=-1).sum(), rel=1e-5)
    assert counts[:, 2].sum() == np.sum(prediction == masks)


def test_calibration_is_that_of_a_plain_loop_over_the_bins(
    model: keras.Model, measurement: Measurement, records: Path, manifest: Manifest
) -> None:
    images, masks = load_split(records, manifest, "test")
    probabilities = np.asarray(keras.ops.softmax(model(images)))
    confidence = probabilities.max(axis=-1).ravel()
    correct = (probabilities.argmax(axis=-1) == masks).ravel()
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    measured = expected_calibration_error(measurement.reliability.sum(axis=0))
    assert float(measured) == pytest.approx(error, abs=1e-4)


def test_names_and_labels_are_in_the_order_of_the_split(
    measurement: Measurement, manifest: Manifest
) -> None:
    assert len(set(measurement.file_names)) == manifest.splits["test"].examples == 6
    for name, label, species in zip(
        measurement.file_names, measurement.labels, measurement.species, strict=True
    ):
        breed = manifest.label_names[label]
        assert name.startswith(breed)
        assert manifest.species_names[species] == ("Cat" if breed.endswith("cat") else "Dog")


def test_the_worst_and_the_best_pictures_are_kept_with_their_predictions(
    model: keras.Model, measurement: Measurement, records: Path, manifest: Manifest
) -> None:
    images, masks = load_split(records, manifest, "test")
    matrices = measurement.matrices
    scores = []
    for matrix in matrices:
        correct, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
        scores.append(np.mean(correct[union > 0] / union[union > 0]))
    order = np.argsort(scores, kind="stable").tolist()
    assert [picture.position for picture in measurement.worst] == order[:2]
    assert [picture.position for picture in measurement.best] == order[::-1][:2]
    for picture in (*measurement.worst, *measurement.best):
        np.testing.assert_array_equal(picture.image, images[picture.position])
        np.testing.assert_array_equal(picture.mask, masks[picture.position])
        np.testing.assert_array_equal(
            picture.prediction,
            predict(prediction_function(model, False), images[[picture.position]])[0],
        )


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_stop_the_stage_and_name_the_picture(
    records: Path, manifest: Manifest, baseline: np.ndarray, broken: float
) -> None:
    images = keras.Input((128, 128, 3))
    plain = keras.layers.Conv2D(3, 1)(images)
    # One logit of one pixel, in every image.
    place = np.zeros((128, 128, 3), bool)
    place[5, 7, 1] = True
    model = keras.Model(images, keras.ops.where(place, broken, plain))
    with pytest.raises(StageError, match=r"gives no finite numbers for \w+\.jpg"):
        measure(model, records, manifest, baseline)


def test_an_empty_split_is_refused(
    model: keras.Model, records: Path, manifest: Manifest, baseline: np.ndarray
) -> None:
    empty = manifest.splits["test"].model_copy(update={"examples": 0, "shards": []})
    without = manifest.model_copy(update={"splits": manifest.splits | {"test": empty}})
    with pytest.raises(StageError, match="test split has no examples"):
        measure(model, records, without, baseline)


def test_the_loss_of_a_network_that_knows_nothing_is_that_of_chance() -> None:
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.layers.Conv2D(3, 1, kernel_initializer="zeros")(images))
    forward = forward_function(model)
    _, confidence, losses = forward(np.zeros((2, 8, 8, 3), np.uint8), np.ones((2, 8, 8), np.uint8))
    np.testing.assert_allclose(losses, math.log(3), rtol=1e-6)
    np.testing.assert_allclose(confidence, 1 / 3, rtol=1e-6)


def test_of_equal_logits_the_first_class_is_predicted() -> None:
    logits = np.random.default_rng(0).integers(0, 3, (4, 8, 8, 3)).astype(np.float32)
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, keras.ops.cast(images, "float32"))
    prediction, _, _ = forward_function(model)(logits, np.zeros((4, 8, 8), np.uint8))
    np.testing.assert_array_equal(prediction, logits.argmax(axis=-1))


def test_large_logits_do_not_overflow() -> None:
    images = keras.Input((8, 8, 3))
    logits = keras.layers.Conv2D(3, 1, kernel_initializer="zeros")(images)
    model = keras.Model(images, logits + np.array([-1e30, 0.0, 1e30], np.float32))
    prediction, confidence, losses = forward_function(model)(
        np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8), 2, np.uint8)
    )
    assert np.all(prediction == 2)
    np.testing.assert_allclose(confidence, 1, rtol=1e-6)
    np.testing.assert_allclose(losses, 0, atol=1e-6)


@pytest.fixture(scope="module")
def small() -> keras.Model:
    """A network that gives other answers for the mirror image."""
    keras.utils.set_random_seed(4)
    images = keras.Input((8, 8, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    return keras.Model(images, keras.layers.Conv2D(3, 5, padding="same")(scaled))


def _pictures(count: int, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, 3, (count, size, size), dtype=np.uint8)


def _mean_probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    mirrored = softmax(np.asarray(model(images[:, :, ::-1])).astype(float), axis=-1)
    return (softmax(np.asarray(model(images)).astype(float), axis=-1) + mirrored[:, :, ::-1]) / 2


def test_with_the_mirror_image_the_answer_is_the_mean_of_both_probabilities(
    small: keras.Model,
) -> None:
    images, _ = _pictures(5)
    expected = _mean_probabilities(small, images)
    logits = np.asarray(prediction_function(small, True)(tf.constant(images)))
    np.testing.assert_allclose(softmax(logits, axis=-1), expected, atol=1e-6)
    alone = prediction_function(small, False)(tf.constant(images))
    np.testing.assert_array_equal(alone, small(images))
    assert np.abs(softmax(alone, axis=-1) - expected).max() > 0.1


def test_with_the_mirror_image_the_answer_for_a_mirrored_picture_is_mirrored(
    small: keras.Model,
) -> None:
    images = tf.constant(_pictures(5)[0])
    for flip in (True, False):
        predict_both = prediction_function(small, flip)
        answer, of_mirror = predict_both(images), predict_both(tf.reverse(images, [2]))
        difference = np.abs(tf.reverse(of_mirror, [2]) - answer).max()
        assert (difference < 1e-5) == flip


def test_with_the_mirror_image_a_network_that_sees_single_pixels_answers_the_same() -> None:
    images = keras.Input((8, 8, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    model = keras.Model(images, keras.layers.Conv2D(3, 1)(scaled))
    pictures, masks = (tf.constant(pixels) for pixels in _pictures(5))
    for alone, both in zip(
        forward_function(model, False)(pictures, masks),
        forward_function(model, True)(pictures, masks),
        strict=True,
    ):
        np.testing.assert_allclose(both, alone, atol=1e-5)


def test_classes_confidences_and_losses_are_those_of_the_mean_with_the_mirror_image(
    small: keras.Model,
) -> None:
    images, masks = _pictures(5)
    expected = _mean_probabilities(small, images)
    prediction, confidence, losses = forward_function(small, True)(images, masks)
    np.testing.assert_array_equal(prediction, expected.argmax(axis=-1))
    np.testing.assert_allclose(confidence, expected.max(axis=-1), rtol=1e-5)
    true = np.take_along_axis(expected, masks[..., None], axis=-1)
    np.testing.assert_allclose(losses, -np.log(true).mean(axis=(1, 2, 3)), rtol=1e-4)


def test_a_split_is_measured_with_the_mirror_image_where_that_is_asked_for(
    model: keras.Model, records: Path, manifest: Manifest, baseline: np.ndarray
) -> None:
    images, masks = load_split(records, manifest, "test")
    measured = measure(model, records, manifest, baseline, extremes=1, flip=True)
    expected = _mean_probabilities(model, images)
    for index, mask in enumerate(masks):
        prediction = expected[index].argmax(axis=-1)
        matrix = np.bincount(3 * mask.ravel() + prediction.ravel(), minlength=9).reshape(3, 3)
        np.testing.assert_array_equal(measured.matrices[index], matrix)
    true = np.take_along_axis(expected, masks[..., None], axis=-1)
    np.testing.assert_allclose(measured.losses, -np.log(true).mean(axis=(1, 2, 3)), rtol=1e-4)
    best = measured.best[0]
    np.testing.assert_array_equal(best.prediction, expected[best.position].argmax(axis=-1))


def test_with_the_mirror_image_a_network_that_is_sure_and_wrong_has_a_finite_loss() -> None:
    images = keras.Input((8, 8, 3))
    logits = keras.layers.Conv2D(3, 1, kernel_initializer="zeros")(images)
    model = keras.Model(images, logits + np.array([0.0, 300.0, -300.0], np.float32))
    pictures, masks = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8), np.uint8)
    for flip in (False, True):
        _, confidence, losses = forward_function(model, flip)(pictures, masks)
        np.testing.assert_allclose(losses, 300, rtol=1e-5)
        np.testing.assert_allclose(confidence, 1, rtol=1e-6)
