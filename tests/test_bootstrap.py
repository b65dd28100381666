"""Bootstrap intervals, against SciPy and against draws made one image at a time."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.metrics.bootstrap import (
    confidence_interval,
    mean_of_terms,
    mean_terms,
    paired_difference,
)

# A division by zero or an overflow that is meant is dealt with where it happens.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

PROFILE = settings(deadline=None, derandomize=True, max_examples=40)


def ratio(sums):
    """A ratio of two sums, like an IoU: `[..., 2]` to `[...]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _intersections_and_unions(images, seed=0):
    rng = np.random.default_rng(seed)
    union = rng.integers(500, 9000, images)
    return np.stack([rng.binomial(union, rng.beta(8, 2, images)), union], axis=-1)


def test_interval_is_that_of_scipy():
    """Both are percentile intervals of the same images, from different draws."""
    per_image = _intersections_and_unions(200)
    low, high = confidence_interval(per_image, ratio, seed=0, draws=5000)
    expected = scipy.stats.bootstrap(
        (per_image[:, 0], per_image[:, 1]),
        lambda intersection, union, axis: intersection.sum(axis=axis) / union.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    # The ends of 5,000 draws scatter by about 2 % of the interval's width.
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.1 * width)
    assert high == pytest.approx(expected.high, abs=0.1 * width)
    assert low < ratio(per_image.sum(axis=0)) < high


def test_paired_difference_is_that_of_scipy():
    """The second network is better in every image, by little against the images' own spread."""
    first = _intersections_and_unions(150)
    second = first.copy()
    second[:, 0] -= np.minimum(second[:, 0], np.random.default_rng(2).integers(0, 200, 150))
    difference, low, high = paired_difference(first, second, ratio, seed=0, draws=5000)
    assert difference == ratio(first.sum(axis=0)) - ratio(second.sum(axis=0))

    def statistic(a, b, union, axis):
        return (a.sum(axis=axis) - b.sum(axis=axis)) / union.sum(axis=axis)

    expected = scipy.stats.bootstrap(
        (first[:, 0], second[:, 0], first[:, 1]),
        statistic,
        paired=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.1 * width)
    assert high == pytest.approx(expected.high, abs=0.1 * width)

    # The point of pairing: the difference is clear although the networks' own intervals overlap.
    assert low > 0
    assert (
        confidence_interval(second, ratio, seed=0)[1]
        > (confidence_interval(first, ratio, seed=0)[0])
    )


@PROFILE
@given(
    st.integers(1, 12),
    st.sampled_from([1, 249, 250, 251, 600]),
    st.integers(0, 2**32),
    st.sampled_from([0.5, 0.9, 0.95]),
)
def test_draws_are_whole_images_with_replacement(images, draws, seed, level):
    """One digit per image shows in a draw's sum how often each image was drawn."""
    base = 13
    per_image = np.array([base**image for image in range(images)])
    seen = []

    def number(sums):
        seen.append(sums.copy())
        return sums

    low, high = confidence_interval(per_image, number, seed=seed, draws=draws, level=level)
    sums = max(seen, key=len)
    assert sums.shape == (draws,)
    np.testing.assert_allclose([low, high], np.quantile(sums, [(1 - level) / 2, (1 + level) / 2]))
    times_drawn = sums.astype(np.int64)[:, np.newaxis] // per_image % base
    np.testing.assert_array_equal(times_drawn.sum(axis=1), images)


def test_every_image_is_drawn_alike():
    """Over 4,000 draws of 5 images, each is drawn once on average with variance 1 - 1/5."""
    seen = []

    def keep(sums):
        seen.append(sums)
        return sums

    confidence_interval(np.eye(5, dtype=np.int64), keep, seed=7, draws=4000)
    times_drawn = max(seen, key=len)
    np.testing.assert_allclose(times_drawn.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(times_drawn.var(axis=0), 0.8, atol=0.08)


@PROFILE
@given(hnp.arrays(np.int64, (6, 3, 2), elements=st.integers(1, 1000)), st.integers(0, 100))
def test_a_statistic_of_several_values(per_image, seed):
    """A vector's intervals are those of its values one by one, as the draws are the same."""
    low, high = confidence_interval(per_image, ratio, seed=seed, draws=300)
    assert low.shape == high.shape == (3,)
    for index in range(3):
        alone = confidence_interval(per_image[:, index], ratio, seed=seed, draws=300)
        np.testing.assert_allclose([low[index], high[index]], alone)
    other = per_image[::-1]
    difference, *ends = paired_difference(per_image, other, ratio, seed=seed, draws=300)
    assert difference.shape == (3,)
    for index in range(3):
        pair = per_image[:, index], other[:, index]
        expected = paired_difference(*pair, ratio, seed=seed, draws=300)
        np.testing.assert_allclose([difference[index], ends[0][index], ends[1][index]], expected)


def test_same_seed_same_interval():
    """And another seed another one."""
    per_image = _intersections_and_unions(40)
    first = confidence_interval(per_image, ratio, seed=3)
    assert first == confidence_interval(per_image, ratio, seed=3)
    assert first != confidence_interval(per_image, ratio, seed=4)


def test_both_networks_are_given_the_same_draws():
    """In no draw does a network differ from itself, or a constant offset from that constant."""
    per_image = _intersections_and_unions(30)
    np.testing.assert_array_equal(paired_difference(per_image, per_image, ratio, seed=0), [0, 0, 0])
    values = np.random.default_rng(0).random(30)
    shifted = paired_difference(
        mean_terms(values + 0.25), mean_terms(values), mean_of_terms, seed=0
    )
    np.testing.assert_allclose(shifted, [0.25, 0.25, 0.25])


def test_higher_level_wider_interval():
    """And one image alone has nothing to vary."""
    per_image = _intersections_and_unions(50)
    narrow = confidence_interval(per_image, ratio, seed=0, level=0.5)
    wide = confidence_interval(per_image, ratio, seed=0, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    low, high = confidence_interval(per_image[:1], ratio, seed=0)
    assert low == high == ratio(per_image[0])


def test_large_integers_are_summed_exactly():
    """Up to 2**53 a sum in float64 is the integer's; beyond, it is refused."""
    per_image = np.array([2**52 - 1, 1])

    def is_whole(sums):
        return np.isin(sums, [2, 2**52, 2**53 - 2]).astype(float)

    assert confidence_interval(per_image, is_whole, seed=0) == (1, 1)
    with pytest.raises(ValueError, match=r"sums of per_image may reach 9007199254740994"):
        confidence_interval(np.array([2**52 + 1, 1]), is_whole, seed=0)


def test_a_mean_over_images():
    """Against SciPy's interval of a mean; images without a value are left out of a draw's mean."""
    values = np.random.default_rng(5).beta(6, 2, 120)
    low, high = confidence_interval(mean_terms(values), mean_of_terms, seed=0, draws=5000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.1 * width)
    assert high == pytest.approx(expected.high, abs=0.1 * width)

    with_gaps = np.array([[0.5, np.nan], [np.nan, np.nan], [1.0, np.nan]])
    terms = mean_terms(with_gaps)
    assert terms.shape == (3, 2, 2)
    np.testing.assert_array_equal(mean_of_terms(terms.sum(axis=0)), [0.75, np.nan])


def test_draws_in_which_the_statistic_is_undefined():
    """Left out while they are rare; NaN where they are not, or where there is no value at all."""
    images = 40
    per_image = np.zeros((images, 3, 2), np.int64)
    per_image[:5, 0] = [3, 4]  # about 1 draw in 200 has none of these five images
    per_image[:1, 1] = [3, 4]  # about 1 draw in 3 lacks this one
    low, high = confidence_interval(per_image, ratio, seed=0)
    np.testing.assert_array_equal(low, [0.75, np.nan, np.nan])
    np.testing.assert_array_equal(high, [0.75, np.nan, np.nan])
    full = np.ones_like(per_image)
    difference, low, high = paired_difference(full, per_image, ratio, seed=0)
    np.testing.assert_array_equal(difference, [0.25, 0.25, np.nan])
    np.testing.assert_array_equal(low, [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(high, [0.25, np.nan, np.nan])


def test_a_statistic_undefined_for_the_images_themselves():
    """An interval around no value is none, even if most draws have one."""
    squares = np.arange(40) ** 2

    def undefined_for_all_images(sums):
        return np.where(sums == squares.sum(), np.nan, sums)

    ends = confidence_interval(squares, undefined_for_all_images, seed=0)
    np.testing.assert_array_equal(ends, [np.nan, np.nan])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_input_that_is_not_finite(bad):
    """The message names the image and the argument."""
    per_image = np.ones((5, 2))
    per_image[3, 1] = bad
    with pytest.raises(ValueError, match="per_image of image 3 is not finite"):
        confidence_interval(per_image, ratio, seed=0)
    with pytest.raises(ValueError, match="second of image 3 is not finite"):
        paired_difference(np.ones((5, 2)), per_image, ratio, seed=0)


def test_images_that_are_refused():
    """None at all, or not the same ones twice."""
    per_image = np.ones((5, 2), np.int64)
    with pytest.raises(ValueError, match="no image to draw from"):
        confidence_interval(per_image[:0], ratio, seed=0)
    with pytest.raises(ValueError, match="no image to draw from"):
        confidence_interval(3, ratio, seed=0)
    with pytest.raises(ValueError, match="first has shape"):
        paired_difference(per_image[:0], per_image[:0], ratio, seed=0)
    with pytest.raises(ValueError, match=r"first is \(5, 2\) and second is \(4, 2\)"):
        paired_difference(per_image, per_image[:4], ratio, seed=0)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, np.nan])
def test_level_out_of_range(level):
    """A percentage is a likely mistake."""
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        confidence_interval(np.ones((5, 2)), ratio, seed=0, level=level)
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        paired_difference(np.ones((5, 2)), np.ones((5, 2)), ratio, seed=0, level=level)


def test_draws_and_statistics_that_are_refused():
    """No draw; a statistic that does not keep the draws apart."""
    per_image = np.ones((5, 2))
    with pytest.raises(ValueError, match="at least one draw"):
        confidence_interval(per_image, ratio, seed=0, draws=0)
    with pytest.raises(ValueError, match="one per draw"):
        confidence_interval(per_image, np.sum, seed=0)
    with pytest.raises(ValueError, match=r"returned shape \(2,\)"):
        paired_difference(per_image, per_image, lambda sums: sums.sum(axis=0), seed=0)
