"""Confusion matrices, boundary F and calibration, against scikit-learn and SciPy.

`test_results` holds them against Keras.
"""

import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.calibration import calibration_curve

from stages.metrics import calibration, confusion
from stages.metrics.boundary import TOLERANCES, boundary_counts, boundary_f_score
from stages.metrics.calibration import BINS
from stages.records.classes import BACKGROUND, BORDER, PET

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
PROFILE = settings(deadline=None, derandomize=True, max_examples=20)


@st.composite
def mask_pairs(draw):
    """Masks and predictions, `[batch, height, width]`; often of one class, or without one."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=8))
    classes = st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True).map(st.sampled_from)
    return [draw(hnp.arrays(np.uint8, shape, elements=draw(classes))) for _ in range(2)]


@PROFILE
@given(mask_pairs())
def test_confusion_matrices_and_their_metrics_are_those_of_scikit_learn(pair):
    """Defined metrics are scikit-learn's, and NaN exactly where that divides by 0."""
    matrices = confusion.confusion_matrices(pair[0], pair[1], 3)
    assert matrices.dtype == np.int64
    for matrix, *classes in zip(matrices, *pair, strict=True):
        expected = sklearn.metrics.confusion_matrix(*map(np.ravel, classes), labels=range(3))
        np.testing.assert_array_equal(matrix, expected)
    matrix, mask, prediction = matrices.sum(axis=0), *map(np.ravel, pair)
    in_truth, in_prediction = np.isin(range(3), mask), np.isin(range(3), prediction)
    for metric, reference, defined in [
        ("iou", sklearn.metrics.jaccard_score, in_truth | in_prediction),
        ("dice", sklearn.metrics.f1_score, in_truth | in_prediction),
        ("precision", sklearn.metrics.precision_score, in_prediction),
        ("recall", sklearn.metrics.recall_score, in_truth),
    ]:
        score = reference(mask, prediction, zero_division=0, labels=range(3), average=None)
        found = confusion.class_metrics(matrix)[metric]
        np.testing.assert_allclose(found, np.where(defined, score, np.nan))
    accuracy = sklearn.metrics.accuracy_score(mask, prediction)
    np.testing.assert_allclose(confusion.pixel_accuracy(matrix), accuracy)
    macro = sklearn.metrics.jaccard_score(mask, prediction, average="macro")
    np.testing.assert_allclose(confusion.mean_iou(matrix), macro)
    inside = mask != BORDER
    for pet_iou, truth, claim in [
        (confusion.pet_iou_border_as_pet, mask != BACKGROUND, prediction != BACKGROUND),
        (confusion.pet_iou_border_left_out, mask[inside] == PET, prediction[inside] == PET),
    ]:
        union = np.sum(truth | claim)
        expected = np.sum(truth & claim) / union if union else np.nan
        np.testing.assert_allclose(pet_iou(matrix), expected)


@st.composite
def region_pairs(draw):
    """Two regions, `[batch, height, width]`: blobs, specks, empty or full."""
    shape = [draw(st.integers(1, most)) for most in (3, 20, 40)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = []
    for _ in range(2):
        smooth = draw(st.sampled_from([0.0, 1.0, 3.0]))
        noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, smooth, smooth))
        share = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
        pair.append(np.full(shape, bool(share)) if share in (0, 1) else noise < 2 * share - 1)
    return pair


def _matched(boundary_pixels, other, tolerance):
    """Number of boundary pixels at most `tolerance` away from the other boundary."""
    if not other.any():
        return 0
    distance = ndimage.distance_transform_edt(~other)
    # A distance transform is exact up to rounding; the squares are whole numbers.
    return np.sum(boundary_pixels & (np.rint(distance**2) <= tolerance**2))


@PROFILE
@given(region_pairs())
def test_boundary_counts_are_those_of_a_distance_transform(pair):
    counts = boundary_counts(*pair)
    for of_image, *regions in zip(counts, *pair, strict=True):
        # What is beyond the frame counts as inside: the frame is not a boundary.
        true, found = (one & ~ndimage.binary_erosion(one, border_value=1) for one in regions)
        for row, radius in zip(of_image, TOLERANCES, strict=True):
            matched = _matched(found, true, radius), _matched(true, found, radius)
            assert tuple(row) == (matched[0], found.sum(), matched[1], true.sum())
    # The boundary has no preferred side.
    mirrored = boundary_counts(*[region[:, :, ::-1].transpose(0, 2, 1) for region in pair])
    np.testing.assert_array_equal(mirrored, counts)
    with_itself = boundary_f_score(boundary_counts(pair[0], pair[0]))
    np.testing.assert_array_equal(with_itself, np.where(counts[..., 3] > 0, 1.0, np.nan))


def test_boundary_f_is_the_harmonic_mean_and_undefined_without_a_boundary():
    counts = [[0, 0, 0, 0], [0, 0, 0, 4], [0, 5, 0, 4], [4, 4, 4, 4], [2, 4, 6, 6]]
    np.testing.assert_allclose(boundary_f_score(counts), [np.nan, 0, 0, 1, 2 / 3])
    # Summed: precision 6/13, recall 10/18.
    total = np.sum(counts, axis=0)
    np.testing.assert_allclose(boundary_f_score(total), 2 / (13 / 6 + 18 / 10))


def _bins_one_by_one(confidence, correct):
    """Sums per bin (low, high]; 0 is in the first."""
    edges = np.array([-1, *(index / BINS for index in range(1, BINS + 1))], np.float32)
    bins = [(low < confidence) & (confidence <= high) for low, high in itertools.pairwise(edges)]
    return np.array([[one.sum(), confidence[one].sum(), correct[one].sum()] for one in bins])


@PROFILE
@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
def test_calibration_is_that_of_one_bin_at_a_time(data, shape):
    """Confidences 0 and 1, and the edges that float32 holds exactly, fall into the lower bin."""
    edges = st.sampled_from([0, 3 / 15, 6 / 15, 9 / 15, 12 / 15, 1]).map(np.float32).map(float)
    elements = st.one_of(edges, st.integers(0, 1000).map(lambda mils: (mils + 0.5) / 1001))
    confidence = data.draw(hnp.arrays(np.float64, shape, elements=elements)).astype(np.float32)
    correct = data.draw(hnp.arrays(np.bool_, shape))
    counts = calibration.image_reliability_counts(confidence, correct)
    assert counts.shape == (shape[0], BINS, 3)
    expected = [_bins_one_by_one(*image) for image in zip(confidence, correct, strict=True)]
    np.testing.assert_allclose(counts, expected, rtol=1e-6)
    for sums, found in zip(expected, calibration.expected_calibration_error(counts), strict=True):
        # As Guo et al. write it.
        pixels, sure, right = sums[sums[:, 0] > 0].T
        error = np.sum(pixels / pixels.sum() * abs(right / pixels - sure / pixels))
        np.testing.assert_allclose(found, error, atol=1e-6)


def test_reliability_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(1 / 3, 1, (4, 33, 65))
    correct = rng.random(confidence.shape) < confidence**1.5
    counts = calibration.image_reliability_counts(confidence, correct).sum(axis=0)
    mean_confidence, accuracy = calibration.reliability_curve(counts)
    expected = calibration_curve(correct.ravel(), confidence.ravel(), n_bins=15)
    # No confidence of three classes is below 1/3: the first five bins are empty.
    assert np.isnan([mean_confidence[:5], accuracy[:5]]).all()
    np.testing.assert_allclose(accuracy[5:], expected[0])
    np.testing.assert_allclose(mean_confidence[5:], expected[1])
