"""Calibration, against a loop over pixels, SciPy's softmax and scikit-learn's curve."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from stages.metrics.calibration import (
    BINS,
    expected_calibration_error,
    image_reliability_counts,
    reliability_counts,
    reliability_curve,
    top_label,
)

# A division by zero or an overflow that is meant is dealt with where it happens.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

PROFILE = settings(deadline=None, derandomize=True, max_examples=60)

LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    # Small whole numbers make ties; the large ones overflow an exponential, or a difference.
    elements=st.one_of(
        st.integers(-2, 2).map(float),
        st.floats(-20, 20, width=32),
        st.sampled_from([-3e38, 3e38, 1e5, -1e5]),
    ),
)


@st.composite
def confident_pixels(draw):
    """Confidences and whether they were right, with many on the edges of 4, 8 or 16 bins."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9))
    edges = st.integers(0, 16).map(lambda sixteenths: sixteenths / 16)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    elements = st.one_of(edges, st.floats(0, 1, width=32))
    confidence = draw(hnp.arrays(dtype, shape, elements=elements))
    return confidence, draw(hnp.arrays(np.bool_, shape))


def _loop_over_pixels(confidence, correct, bins):
    """Sums per bin, by looking for each pixel's bin (low, high]."""
    sums = np.zeros((bins, 3))
    for value, right in zip(confidence.ravel().tolist(), correct.ravel().tolist(), strict=True):
        for index in range(bins):
            low, high = index / bins, (index + 1) / bins
            if low < value <= high or (index == 0 and value == 0):
                sums[index] += 1, value, right
    return sums


def _loop_over_bins(sums):
    """Expected calibration error, as Guo et al. write it."""
    pixels = sum(count for count, _, _ in sums)
    error = 0.0
    for count, confidence_sum, right in sums:
        if count:
            error += count / pixels * abs(right / count - confidence_sum / count)
    return error


@PROFILE
@given(LOGITS)
@example(np.zeros((1, 1, 1, 3), np.float32))
def test_top_label_is_argmax_and_softmax(logits):
    """Float32 agrees with SciPy's float64 to float32's precision."""
    confidence, label = top_label(logits)
    assert (confidence.dtype, label.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(label, logits.argmax(axis=-1))
    expected = softmax(logits.astype(np.float64), axis=-1).max(axis=-1)
    np.testing.assert_allclose(confidence, expected, rtol=1e-6)
    assert np.all(confidence <= 1)


def test_top_label_of_many_classes_leaves_its_input_alone():
    """The greatest may come at any place; float64 stays float64."""
    logits = np.random.default_rng(0).normal(size=(3, 16, 17, 256)) * 5
    before = logits.copy()
    confidence, label = top_label(logits)
    np.testing.assert_array_equal(logits, before)
    np.testing.assert_array_equal(label, logits.argmax(axis=-1))
    np.testing.assert_allclose(confidence, softmax(logits, axis=-1).max(axis=-1), rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value):
    """The message names the image, and where in it."""
    logits = np.zeros((4, 5, 6, 3), np.float32)
    logits[2, 3, 4, 1] = value
    with pytest.raises(ValueError, match=r"image 2 .* row 3, column 4, class 1"):
        top_label(logits)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros((5, 6, 3), np.float32), r"float32 \(5, 6, 3\)"),
        (np.zeros((1, 5, 6, 3), np.int64), "int64"),
        (np.zeros((1, 2, 2, 257), np.float32), "are of 257"),
        (np.zeros((1, 2, 2, 0), np.float32), "are of 0"),
    ],
)
def test_logits_of_another_shape_or_dtype(logits, message):
    """The message gives what it got."""
    with pytest.raises(ValueError, match=message):
        top_label(logits)


@PROFILE
@given(confident_pixels(), st.sampled_from([1, 4, 8, 16]))
def test_counts_and_error_are_those_of_a_loop(pixels, bins):
    """With 4, 8 or 16 bins the edges are exact, and so are the counts on them."""
    confidence, correct = pixels
    counts = reliability_counts(confidence, correct, bins)
    expected = _loop_over_pixels(confidence, correct, bins)
    np.testing.assert_array_equal(counts[:, [0, 2]], expected[:, [0, 2]])
    np.testing.assert_allclose(counts[:, 1], expected[:, 1])
    np.testing.assert_allclose(
        expected_calibration_error(counts), _loop_over_bins(expected), atol=1e-12
    )


@PROFILE
@given(confident_pixels())
def test_counts_add_up(pixels):
    """Images' counts sum to the batch's, and a split batch's to the whole's."""
    confidence, correct = pixels
    whole = reliability_counts(confidence, correct)
    of_images = image_reliability_counts(confidence, correct)
    assert of_images.shape == (len(confidence), BINS, 3)
    np.testing.assert_allclose(of_images.sum(axis=0), whole)
    for index, counts in enumerate(of_images):
        alone = reliability_counts(confidence[index : index + 1], correct[index : index + 1])
        np.testing.assert_allclose(counts, alone)
    half = len(confidence) // 2
    parts = [reliability_counts(confidence[cut], correct[cut]) for cut in np.s_[:half, half:]]
    np.testing.assert_allclose(parts[0] + parts[1], whole)


def test_error_and_curve_of_15_bins():
    """Random confidences never meet an edge: the loop and scikit-learn agree at 15 bins too."""
    rng = np.random.default_rng(3)
    confidence = rng.uniform(1 / 3, 1, (4, 33, 65))
    correct = rng.random(confidence.shape) < confidence**1.5
    counts = reliability_counts(confidence, correct)
    assert counts.shape == (15, 3)
    expected = _loop_over_pixels(confidence, correct, 15)
    np.testing.assert_allclose(counts, expected)
    np.testing.assert_allclose(expected_calibration_error(counts), _loop_over_bins(expected))

    curve = reliability_curve(counts)
    accuracy, mean_confidence = calibration_curve(correct.ravel(), confidence.ravel(), n_bins=15)
    filled = curve.pixels > 0
    np.testing.assert_allclose(curve.accuracy[filled], accuracy)
    np.testing.assert_allclose(curve.mean_confidence[filled], mean_confidence)
    # No confidence of three classes is below 1/3: the first five bins are empty.
    np.testing.assert_array_equal(filled, np.arange(15) >= 5)
    assert np.isnan(curve.accuracy[:5]).all()
    assert np.isnan(curve.mean_confidence[:5]).all()
    assert curve.pixels.dtype == np.int64
    assert curve.pixels.sum() == confidence.size


def test_error_of_a_perfectly_calibrated_and_of_an_overconfident_prediction():
    """0.75 sure and right three times of four: 0. Sure and right half of the time: 0.5."""
    three_of_four = np.array([True, True, True, False])
    counts = reliability_counts(np.full(4, 0.75, np.float32), three_of_four)
    assert expected_calibration_error(counts) == 0
    half = np.array([True, False, True, False])
    assert expected_calibration_error(reliability_counts(np.ones(4, np.float32), half)) == 0.5


def test_leading_dimensions():
    """A stack of draws gives what its draws give one by one."""
    rng = np.random.default_rng(0)
    confidence = rng.random((6, 50)).astype(np.float32)
    stack = image_reliability_counts(confidence, rng.random((6, 50)) < 0.5).reshape(2, 3, BINS, 3)
    errors = [[expected_calibration_error(counts) for counts in row] for row in stack]
    np.testing.assert_allclose(expected_calibration_error(stack), errors)
    curve = reliability_curve(stack)
    np.testing.assert_array_equal(curve.accuracy[1, 2], reliability_curve(stack[1, 2]).accuracy)


def test_no_pixels():
    """Counts of nothing are zeros; an error of nothing is an empty split."""
    counts = reliability_counts(np.zeros((0, 4), np.float32), np.zeros((0, 4), bool))
    np.testing.assert_array_equal(counts, np.zeros((BINS, 3)))
    nothing = image_reliability_counts(np.zeros((2, 0), np.float32), np.zeros((2, 0), bool))
    np.testing.assert_array_equal(nothing, np.zeros((2, BINS, 3)))
    for empty in (counts, nothing, nothing[:0]):
        with pytest.raises(ValueError, match="split is empty"):
            expected_calibration_error(empty)
    assert np.isnan(reliability_curve(counts).accuracy).all()


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "message"),
    [
        (np.ones(3, np.float32), np.ones(4, bool), 15, "one shape"),
        (np.ones(3, np.float32), np.ones(3), 15, "correct bool"),
        (np.ones(3, np.int64), np.ones(3, bool), 15, "float dtype"),
        (np.ones(3, np.float32), np.ones(3, bool), 0, "at least one bin"),
        (np.array([0.5, 1.5]), np.ones(2, bool), 15, r"is in \[0.5, 1.5\]"),
        (np.array([-0.5, 0.5]), np.ones(2, bool), 15, r"is in \[-0.5, 0.5\]"),
        (np.array([0.5, np.nan]), np.ones(2, bool), 15, "nan"),
    ],
)
def test_pixels_that_are_refused(confidence, correct, bins, message):
    """The message says what was wrong."""
    for function in (reliability_counts, image_reliability_counts):
        with pytest.raises(ValueError, match=message):
            function(confidence, correct, bins)


def test_counts_that_are_refused():
    """Another shape, or a number that no counting gives."""
    for function in (expected_calibration_error, reliability_curve):
        with pytest.raises(ValueError, match=r"shape is \(15, 2\)"):
            function(np.ones((15, 2)))
        with pytest.raises(ValueError, match="negative or NaN"):
            function(np.full((15, 3), np.nan))
    with pytest.raises(ValueError, match="axis of images"):
        image_reliability_counts(np.array(0.5), np.array(True))
