"""Calibration, against one bin at a time and scikit-learn's curve."""

import itertools

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


def _bins_one_by_one(confidence, correct):
    """Sums per bin (low, high]; 0 is in the first."""
    edges = np.array([-1, *(index / BINS for index in range(1, BINS + 1))], np.float32)
    bins = [(low < confidence) & (confidence <= high) for low, high in itertools.pairwise(edges)]
    return np.array([[one.sum(), confidence[one].sum(), correct[one].sum()] for one in bins])


def _error_of_bins(sums):
    """Expected calibration error, as Guo et al. write it."""
    pixels, confidence, correct = sums[sums[:, 0] > 0].T
    return np.sum(pixels / pixels.sum() * abs(correct / pixels - confidence / pixels))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.data(), hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
def test_counts_and_error_are_those_of_one_bin_at_a_time(data, shape):
    """Confidences 0 and 1, and the edges that float32 holds exactly, fall into the lower bin."""
    edges = st.sampled_from([0, 3 / 15, 6 / 15, 9 / 15, 12 / 15, 1]).map(np.float32).map(float)
    elements = st.one_of(edges, st.integers(0, 1000).map(lambda mils: (mils + 0.5) / 1001))
    confidence = data.draw(hnp.arrays(np.float64, shape, elements=elements)).astype(np.float32)
    correct = data.draw(hnp.arrays(np.bool_, shape))
    counts = image_reliability_counts(confidence, correct)
    assert counts.shape == (shape[0], BINS, 3)
    expected = [_bins_one_by_one(*image) for image in zip(confidence, correct, strict=True)]
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


def test_error_of_a_perfectly_calibrated_and_of_an_overconfident_prediction():
    for confidence, right, error in ((0.75, 3, 0), (1, 2, 0.5)):
        counts = image_reliability_counts(np.full((1, 4), confidence), np.arange(4)[None] < right)
        assert expected_calibration_error(counts) == error
