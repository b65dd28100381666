"""Calibration, against a loop over pixels and scikit-learn's curve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve

from stages.metrics.calibration import (
    BINS,
    expected_calibration_error,
    image_reliability_counts,
    reliability_curve,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def _loop_over_pixels(confidence, correct):
    """Sums per bin, by looking for each pixel's bin (low, high]."""
    sums = np.zeros((BINS, 3))
    for value, right in zip(confidence.ravel(), correct.ravel(), strict=True):
        for index in range(BINS):
            low, high = np.float32(index / BINS), np.float32((index + 1) / BINS)
            if low < value <= high or (index == 0 and value == 0):
                sums[index] += 1, value, right
    return sums


def _error_of_bins(sums):
    """Expected calibration error, as Guo et al. write it."""
    filled = sums[sums[:, 0] > 0]
    pixels, confidence, correct = filled.T
    return np.sum(pixels / pixels.sum() * abs(correct / pixels - confidence / pixels))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
def test_counts_and_error_are_those_of_a_loop_over_pixels(data, shape):
    """Confidences 0 and 1, and the edges that float32 holds exactly, fall into the lower bin."""
    edges = st.sampled_from([0, 3 / 15, 6 / 15, 9 / 15, 12 / 15, 1]).map(np.float32).map(float)
    elements = st.one_of(edges, st.integers(0, 1000).map(lambda mils: (mils + 0.5) / 1001))
    confidence = data.draw(hnp.arrays(np.float64, shape, elements=elements)).astype(np.float32)
    correct = data.draw(hnp.arrays(np.bool_, shape))
    counts = image_reliability_counts(confidence, correct)
    assert counts.shape == (shape[0], BINS, 3)
    expected = [_loop_over_pixels(*image) for image in zip(confidence, correct, strict=True)]
    np.testing.assert_allclose(counts, expected, rtol=1e-6)
    errors = [_error_of_bins(sums) for sums in expected]
    np.testing.assert_allclose(expected_calibration_error(counts), errors, atol=1e-6)


def test_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(3)
    confidence = rng.uniform(1 / 3, 1, (4, 33, 65))
    correct = rng.random(confidence.shape) < confidence**1.5
    counts = image_reliability_counts(confidence, correct).sum(axis=0)
    mean_confidence, accuracy = reliability_curve(counts)
    expected = calibration_curve(correct.ravel(), confidence.ravel(), n_bins=15)
    # No confidence of three classes is below 1/3: the first five bins are empty.
    assert np.isnan([mean_confidence[:5], accuracy[:5]]).all()
    np.testing.assert_allclose(accuracy[5:], expected[0])
    np.testing.assert_allclose(mean_confidence[5:], expected[1])
    assert counts[:, 0].sum() == confidence.size


@pytest.mark.parametrize(("confidence", "right", "error"), [(0.75, 3, 0), (1, 2, 0.5)])
def test_error_of_a_perfectly_calibrated_and_of_an_overconfident_prediction(
    confidence, right, error
):
    counts = image_reliability_counts(np.full((1, 4), confidence), np.arange(4)[None] < right)
    assert expected_calibration_error(counts) == error
