"""Bootstrap intervals, against SciPy and against draws made one image at a time."""

from unittest.mock import Mock

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.metrics.bootstrap import (
    DRAWS,
    confidence_interval,
    mean_of_terms,
    mean_terms,
    paired_difference,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@np.errstate(invalid="ignore")
def ratio(sums):
    """A ratio of two sums, like an IoU: `[..., 2]` to `[...]`."""
    return sums[..., 0] / sums[..., 1]


def _intersections_and_unions(images, seed=0):
    rng = np.random.default_rng(seed)
    union = rng.integers(500, 9000, images)
    return np.stack([rng.binomial(union, rng.beta(8, 2, images)), union], axis=-1)


def _assert_interval_of_scipy(ends, data, statistic):
    options = {"paired": True, "method": "percentile", "n_resamples": 2000, "rng": 1}
    expected = scipy.stats.bootstrap(data, statistic, **options).confidence_interval
    # The ends of 2,000 draws scatter by about 3 % of the interval's width.
    np.testing.assert_allclose(ends, expected, atol=0.12 * (expected.high - expected.low))


def test_intervals_of_a_ratio_and_of_a_mean_are_those_of_scipy():
    per_image = _intersections_and_unions(200)
    ends = confidence_interval(per_image, ratio, seed=0)
    _assert_interval_of_scipy(
        ends, tuple(per_image.T), lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis)
    )
    values = np.random.default_rng(5).beta(6, 2, 120)
    ends = confidence_interval(mean_terms(values), mean_of_terms, seed=0)
    _assert_interval_of_scipy(ends, (values,), np.mean)


def test_paired_difference_is_that_of_scipy_and_clear_although_the_intervals_overlap():
    """The second network is worse in every image, by little against the images' own spread."""
    first = _intersections_and_unions(150)
    second = first.copy()
    second[:, 0] -= np.minimum(second[:, 0], np.random.default_rng(2).integers(0, 200, 150))
    difference, low, high = paired_difference(first, second, ratio, seed=0)
    assert difference == ratio(first.sum(axis=0)) - ratio(second.sum(axis=0))
    _assert_interval_of_scipy(
        (low, high),
        (first[:, 0], second[:, 0], first[:, 1]),
        lambda a, b, union, axis: (a.sum(axis=axis) - b.sum(axis=axis)) / union.sum(axis=axis),
    )
    assert low > 0
    of_second = confidence_interval(second, ratio, seed=0)
    assert of_second[1] > confidence_interval(first, ratio, seed=0)[0]
    with pytest.raises(ValueError, match=r"not the same images: \(150, 2\) and \(149, 2\)"):
        paired_difference(first, second[1:], ratio, seed=0)


@settings(deadline=None, derandomize=True, max_examples=10)
@given(st.integers(1, 12), st.integers(0, 2**32))
def test_draws_are_whole_images_with_replacement(images, seed):
    """One digit per image shows in a draw's sum how often each image was drawn."""
    base = 13
    per_image = base ** np.arange(images)
    statistic = Mock(side_effect=np.array)
    ends = confidence_interval(per_image, statistic, seed=seed)
    of_all, draws = np.split(statistic.call_args.args[0], [1])
    assert of_all == per_image.sum()
    assert draws.shape == (DRAWS,)
    np.testing.assert_allclose(ends, np.quantile(draws, [0.025, 0.975]))
    times_drawn = draws.astype(np.int64)[:, np.newaxis] // per_image % base
    np.testing.assert_array_equal(times_drawn.sum(axis=1), images)
    # On average once, with variance 1 - 1 / images.
    np.testing.assert_allclose(times_drawn.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(times_drawn.var(axis=0), 1 - 1 / images, atol=0.2)


def test_the_seed_alone_decides_the_draws():
    """Those of two networks too: in no draw does a constant offset differ from that constant."""
    per_image = _intersections_and_unions(40)
    ends, other, again = (confidence_interval(per_image, ratio, seed=seed) for seed in (3, 4, 3))
    assert ends == again != other
    values = np.random.default_rng(0).random(30)
    first, second = mean_terms(values + 0.25), mean_terms(values)
    shifted = paired_difference(first, second, mean_of_terms, seed=0)
    np.testing.assert_allclose(shifted, (0.25, 0.25, 0.25))


def test_undefined_values():
    """Left out while they are rare; NaN where they are not, or where there is no value at all."""
    terms = mean_terms([[0.5, np.nan], [np.nan, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(mean_of_terms(terms.sum(axis=0)), [0.75, np.nan])
    per_image = np.zeros((40, 3, 2), np.int64)
    per_image[:5, 0] = [3, 4]  # about 1 draw in 200 has none of these five images
    per_image[:1, 1] = [3, 4]  # about 1 draw in 3 lacks this one
    low, high = confidence_interval(per_image, ratio, seed=0)
    np.testing.assert_array_equal([low, high], [[0.75, np.nan, np.nan]] * 2)
    found = paired_difference(np.ones_like(per_image), per_image, ratio, seed=0)
    expected = [[0.25, 0.25, np.nan], [0.25, np.nan, np.nan], [0.25, np.nan, np.nan]]
    np.testing.assert_array_equal(found, expected)
    # Undefined for the images themselves, but for no draw.
    ends = confidence_interval(
        np.arange(40), lambda sums: np.where(np.arange(len(sums)) == 0, np.nan, sums), seed=0
    )
    np.testing.assert_array_equal(ends, [np.nan, np.nan])
