"""Confusion matrices and their metrics, against scikit-learn; `test_results` has Keras'."""

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
    class_metrics,
    confusion_matrices,
    mean_iou,
    pet_iou_border_as_pet,
    pet_iou_border_left_out,
    pixel_accuracy,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@st.composite
def mask_pairs(draw):
    """Masks and predictions, `[batch, height, width]`; often of one class, or without one."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=8))
    classes = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True).map(st.sampled_from)
    return [draw(hnp.arrays(np.uint8, shape, elements=draw(classes))) for _ in range(2)]


@settings(deadline=None, derandomize=True, max_examples=15)
@given(mask_pairs())
def test_counts_and_metrics_are_those_of_scikit_learn(pair):
    """Defined metrics are scikit-learn's, and NaN exactly where that divides by 0."""
    matrices = confusion_matrices(pair[0], pair[1], 3)
    assert matrices.dtype == np.int64
    for matrix, mask, prediction in zip(matrices, *pair, strict=True):
        expected = sklearn.metrics.confusion_matrix(
            mask.ravel(), prediction.ravel(), labels=range(3)
        )
        np.testing.assert_array_equal(matrix, expected)
    matrix, mask, prediction = matrices.sum(axis=0), pair[0].ravel(), pair[1].ravel()
    in_truth, in_prediction = np.isin(range(3), mask), np.isin(range(3), prediction)
    for metric, reference, defined in [
        ("iou", sklearn.metrics.jaccard_score, in_truth | in_prediction),
        ("dice", sklearn.metrics.f1_score, in_truth | in_prediction),
        ("precision", sklearn.metrics.precision_score, in_prediction),
        ("recall", sklearn.metrics.recall_score, in_truth),
    ]:
        score = reference(mask, prediction, zero_division=0, labels=range(3), average=None)
        np.testing.assert_allclose(class_metrics(matrix)[metric], np.where(defined, score, np.nan))
    accuracy = sklearn.metrics.accuracy_score(mask, prediction)
    np.testing.assert_allclose(pixel_accuracy(matrix), accuracy)
    macro = sklearn.metrics.jaccard_score(mask, prediction, average="macro")
    np.testing.assert_allclose(mean_iou(matrix), macro)
    # Pet IoU is that of the pixels, counted one by one.
    mask, prediction = pair
    for pet_iou, truth, claim in [
        (pet_iou_border_as_pet, mask != BACKGROUND, prediction != BACKGROUND),
        (pet_iou_border_left_out, mask[mask != BORDER] == PET, prediction[mask != BORDER] == PET),
    ]:
        union = np.sum(truth | claim)
        expected = np.sum(truth & claim) / union if union else np.nan
        np.testing.assert_allclose(pet_iou(matrix), expected)


def test_a_stack_of_float_counts_gives_what_its_matrices_give_one_by_one():
    matrices = np.random.default_rng(0).integers(0, 5, (4, 2, 3, 3))
    matrices[0, 0] = np.diag([0, 7, 0])
    for metric in (
        lambda counts: np.stack(list(class_metrics(counts).values()), axis=-1),
        mean_iou,
        pixel_accuracy,
        pet_iou_border_as_pet,
        pet_iou_border_left_out,
    ):
        expected = [[metric(matrix) for matrix in row] for row in matrices]
        np.testing.assert_array_equal(metric(matrices.astype(np.float64)), expected)
