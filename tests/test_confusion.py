"""Confusion matrices and their metrics, against scikit-learn and Keras."""

import keras
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.metrics.confusion import (
    BACKGROUND,
    BORDER,
    PET,
    confusion_matrices,
    dice,
    iou,
    mean_image_iou,
    mean_iou,
    pet_iou_border_as_pet,
    pet_iou_border_left_out,
    pixel_accuracy,
    precision,
    recall,
)

PER_CLASS = [iou, dice, precision, recall]
METRICS = [
    *PER_CLASS,
    pixel_accuracy,
    mean_iou,
    pet_iou_border_as_pet,
    pet_iou_border_left_out,
]
# A division by zero or an overflow that is meant is dealt with where it happens.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

PROFILE = settings(deadline=None, derandomize=True, max_examples=60)


@st.composite
def mask_pairs(draw, min_batch=1):
    """A mask and a prediction, `[batch, height, width]`; often of one class, or without one."""
    shape = (
        draw(st.integers(min_batch, 4)),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 12)),
    )
    pair = []
    for _ in range(2):
        classes = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
        pair.append(draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from(classes))))
    return tuple(pair)


def _random_pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, shape).astype(np.uint8), rng.integers(0, 3, shape).astype(np.uint8)


@PROFILE
@given(mask_pairs(min_batch=0))
def test_counts_are_those_of_scikit_learn(pair):
    """Each image's matrix is scikit-learn's, true classes in rows."""
    matrices = confusion_matrices(pair[0], pair[1], num_classes=3)
    assert matrices.dtype == np.int64
    assert matrices.shape == (len(pair[0]), 3, 3)
    for matrix, mask, prediction in zip(matrices, *pair, strict=True):
        expected = sklearn.metrics.confusion_matrix(
            mask.ravel(), prediction.ravel(), labels=range(3)
        )
        np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("num_classes", [1, 2, 16, 17, 300])
def test_counts_of_any_number_of_classes(num_classes):
    """16 classes make 256 pairs, the last number that fits in a byte."""
    rng = np.random.default_rng(num_classes)
    mask = rng.integers(0, num_classes, (2, 9, 40), dtype=np.int64)
    mask[0, 0, 0] = num_classes - 1
    prediction = rng.integers(0, num_classes, mask.shape).astype(np.int16)
    prediction[0, 0, 0] = num_classes - 1
    expected = np.zeros((2, num_classes, num_classes), np.int64)
    images = np.broadcast_to(np.arange(2)[:, None, None], mask.shape)
    np.add.at(expected, (images, mask, prediction), 1)
    np.testing.assert_array_equal(confusion_matrices(mask, prediction, num_classes), expected)


@PROFILE
@given(mask_pairs())
def test_per_class_metrics_are_those_of_scikit_learn(pair):
    """Where a metric is defined it is scikit-learn's, and NaN exactly where that divides by 0."""
    mask, prediction = (array.ravel() for array in pair)
    matrix = confusion_matrices(pair[0], pair[1], num_classes=3).sum(axis=0)
    options = {"labels": range(3), "average": None}
    in_truth = np.isin(range(3), mask)
    in_prediction = np.isin(range(3), prediction)
    for metric, reference, defined in [
        (iou, sklearn.metrics.jaccard_score, in_truth | in_prediction),
        (dice, sklearn.metrics.f1_score, in_truth | in_prediction),
        (precision, sklearn.metrics.precision_score, in_prediction),
        (recall, sklearn.metrics.recall_score, in_truth),
    ]:
        expected = reference(mask, prediction, zero_division=0, **options)
        np.testing.assert_allclose(metric(matrix), np.where(defined, expected, np.nan))
    np.testing.assert_allclose(
        pixel_accuracy(matrix), sklearn.metrics.accuracy_score(mask, prediction)
    )


@PROFILE
@given(mask_pairs())
def test_mean_iou_is_over_the_classes_that_occur(pair):
    """Scikit-learn's macro average takes the labels that occur in truth or prediction."""
    matrices = confusion_matrices(pair[0], pair[1], num_classes=3)
    expected = sklearn.metrics.jaccard_score(pair[0].ravel(), pair[1].ravel(), average="macro")
    np.testing.assert_allclose(mean_iou(matrices.sum(axis=0)), expected)
    of_images = [
        sklearn.metrics.jaccard_score(mask.ravel(), prediction.ravel(), average="macro")
        for mask, prediction in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(mean_iou(matrices), of_images)
    np.testing.assert_allclose(mean_image_iou(matrices), np.mean(of_images))


@PROFILE
@given(mask_pairs())
def test_pet_iou_with_the_border_as_pet(pair):
    """The border is merged into the pet in both masks, and pixels counted one by one."""
    matrix = confusion_matrices(pair[0], pair[1], num_classes=3).sum(axis=0)
    truth, prediction = (array != BACKGROUND for array in pair)
    union = np.sum(truth | prediction)
    expected = np.sum(truth & prediction) / union if union else np.nan
    np.testing.assert_allclose(pet_iou_border_as_pet(matrix), expected)


@PROFILE
@given(mask_pairs())
def test_pet_iou_with_the_border_left_out(pair):
    """Pixels of a true border are thrown away; a predicted border is not pet."""
    mask, prediction = pair
    matrix = confusion_matrices(mask, prediction, num_classes=3).sum(axis=0)
    truth, claim = (array[mask != BORDER] == PET for array in (mask, prediction))
    union = np.sum(truth | claim)
    expected = np.sum(truth & claim) / union if union else np.nan
    np.testing.assert_allclose(pet_iou_border_left_out(matrix), expected)


def test_a_predicted_border_does_not_escape_judgement():
    """Border everywhere gives no pet at all when the true border is left out."""
    mask = np.array([[[PET, PET, BORDER, BACKGROUND]]], np.uint8)
    matrix = confusion_matrices(mask, np.full_like(mask, BORDER), num_classes=3).sum(axis=0)
    assert pet_iou_border_left_out(matrix) == 0
    assert pet_iou_border_as_pet(matrix) == 0.75


@pytest.mark.parametrize("absent", [None, PET, BORDER])
def test_metrics_are_those_of_keras(absent):
    """Keras leaves an absent class out of MeanIoU, and a class to ignore out of IoU."""
    mask, prediction = _random_pair((3, 20, 70), seed=1)
    if absent is not None:
        mask[mask == absent] = BACKGROUND
        prediction[prediction == absent] = BACKGROUND
    matrix = confusion_matrices(mask, prediction, num_classes=3).sum(axis=0)

    def result(metric, truth, predicted):
        metric.update_state(truth.astype(np.int32), predicted.astype(np.int32))
        return float(metric.result())

    assert mean_iou(matrix) == pytest.approx(
        result(keras.metrics.MeanIoU(num_classes=3), mask, prediction), rel=1e-6
    )
    assert pixel_accuracy(matrix) == pytest.approx(
        result(keras.metrics.Accuracy(), mask, prediction), rel=1e-6
    )
    if absent is PET:
        return
    only_pet = keras.metrics.IoU(num_classes=3, target_class_ids=[PET], ignore_class=BORDER)
    assert pet_iou_border_left_out(matrix) == pytest.approx(
        result(only_pet, mask, prediction), rel=1e-6
    )
    merged = keras.metrics.IoU(num_classes=2, target_class_ids=[0])
    assert pet_iou_border_as_pet(matrix) == pytest.approx(
        result(merged, mask == BACKGROUND, prediction == BACKGROUND), rel=1e-6
    )


def test_absent_classes():
    """Absent everywhere: undefined. Only predicted, or only in the truth: 0."""
    mask = np.array([[[PET, PET, PET]]], np.uint8)
    prediction = np.array([[[PET, BACKGROUND, PET]]], np.uint8)
    (matrix,) = confusion_matrices(mask, prediction, num_classes=3)
    nan = np.nan
    np.testing.assert_allclose(iou(matrix), [2 / 3, 0, nan])
    np.testing.assert_allclose(dice(matrix), [4 / 5, 0, nan])
    np.testing.assert_allclose(precision(matrix), [1, 0, nan])
    np.testing.assert_allclose(recall(matrix), [2 / 3, nan, nan])
    np.testing.assert_allclose(mean_iou(matrix), 1 / 3)
    np.testing.assert_allclose(precision(matrix.T), [2 / 3, nan, nan])


def test_all_background_leaves_the_pet_undefined():
    """Some trimaps of the dataset show no animal at all."""
    mask = np.full((1, 4, 4), BACKGROUND, np.uint8)
    (matrix,) = confusion_matrices(mask, mask, num_classes=3)
    assert np.isnan(pet_iou_border_as_pet(matrix))
    assert np.isnan(pet_iou_border_left_out(matrix))
    assert mean_iou(matrix) == 1


def test_all_border_leaves_the_pet_undefined_when_left_out():
    """No pixel remains then, which is no error: the matrix itself holds pixels."""
    mask = np.full((1, 4, 4), BORDER, np.uint8)
    (matrix,) = confusion_matrices(mask, np.full_like(mask, PET), num_classes=3)
    assert np.isnan(pet_iou_border_left_out(matrix))
    assert pet_iou_border_as_pet(matrix) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_leading_dimensions_and_float_counts(metric):
    """A stack gives what its matrices give one by one."""
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 5, (4, 2, 3, 3)).astype(np.float64)
    matrices[0, 0] = 0
    matrices[0, 0, BACKGROUND, BACKGROUND] = 7
    expected = [[metric(matrix.astype(np.int64)) for matrix in row] for row in matrices]
    np.testing.assert_array_equal(metric(matrices), expected)


def test_mean_over_images_of_a_stack_of_datasets():
    """The image axis is the third from the end, whatever stands before it."""
    matrices = np.random.default_rng(0).integers(1, 9, (2, 5, 3, 3))
    expected = [mean_image_iou(matrices[0]), mean_image_iou(matrices[1])]
    np.testing.assert_array_equal(mean_image_iou(matrices), expected)
    assert mean_image_iou(matrices[0]) == pytest.approx(np.mean([mean_iou(m) for m in matrices[0]]))
    with pytest.raises(ValueError, match="needs a stack"):
        mean_image_iou(matrices[0, 0])


@pytest.mark.parametrize("metric", [*METRICS, mean_image_iou])
def test_an_empty_split_is_an_error(metric):
    """No matrix, or one without a pixel, says that the split is empty."""
    with pytest.raises(ValueError, match="split is empty"):
        metric(np.zeros((0, 3, 3), np.int64))
    with pytest.raises(ValueError, match=r"at \(1,\) holds no pixel: the split is empty"):
        metric(np.stack([np.eye(3), np.zeros((3, 3))]))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (np.zeros((3, 3)), "confusion matrix holds no pixel"),
        (np.ones((2, 3)), r"shape is \(2, 3\)"),
        (np.ones(3), r"shape is \(3,\)"),
        (-np.ones((3, 3)), "negative or NaN"),
        (np.full((3, 3), np.nan), "negative or NaN"),
    ],
)
def test_matrices_that_are_refused(matrices, message):
    """The message says what was wrong with a matrix."""
    with pytest.raises(ValueError, match=message):
        iou(matrices)


@pytest.mark.parametrize("metric", [pet_iou_border_as_pet, pet_iou_border_left_out])
def test_pet_iou_needs_the_three_classes(metric):
    """Two classes would be read as pet and background silently."""
    with pytest.raises(ValueError, match="of 3 classes"):
        metric(np.ones((2, 2)))


def test_masks_that_are_refused():
    """The message names the pixel, the shapes or the dtype."""
    mask, prediction = _random_pair((2, 4, 5))
    bad = mask.copy()
    bad[1, 2, 3] = 255
    with pytest.raises(ValueError, match="mask of image 1 has class 255 at row 2, column 3"):
        confusion_matrices(bad, prediction, 3)
    bad = prediction.astype(np.int32)
    bad[0, 1, 4] = -1
    with pytest.raises(ValueError, match="prediction of image 0 has class -1 at row 1, column 4"):
        confusion_matrices(mask, bad, 3)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrices(mask, prediction[:, :, :4], 3)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrices(mask[0], prediction[0], 3)
    with pytest.raises(ValueError, match="dtype is float32"):
        confusion_matrices(mask, prediction.astype(np.float32), 3)
    with pytest.raises(ValueError, match="at least one class"):
        confusion_matrices(mask, prediction, 0)
