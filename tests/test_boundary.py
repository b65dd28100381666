"""Boundary F-score, against distance transforms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stages.metrics.boundary import (
    TOLERANCES,
    boundary,
    boundary_counts,
    boundary_f_score,
    silhouette,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


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


@settings(deadline=None, derandomize=True, max_examples=20)
@given(region_pairs())
def test_counts_are_those_of_a_distance_transform(pair):
    counts = boundary_counts(*pair)
    for of_image, *regions in zip(counts, *pair, strict=True):
        # The frame counts as inside.
        true, found = (one & ~ndimage.binary_erosion(one, border_value=1) for one in regions)
        for row, radius in zip(of_image, TOLERANCES, strict=True):
            matched = _matched(found, true, radius), _matched(true, found, radius)
            assert tuple(row) == (matched[0], found.sum(), matched[1], true.sum())
    # The boundary has no preferred side.
    mirrored = boundary_counts(*[region[:, :, ::-1].transpose(0, 2, 1) for region in pair])
    np.testing.assert_array_equal(mirrored, counts)
    with_itself = boundary_f_score(boundary_counts(pair[0], pair[0]))
    np.testing.assert_array_equal(with_itself, np.where(counts[..., 3] > 0, 1.0, np.nan))


def test_a_square_moved_by_two_pixels():
    """Worked by hand: all pixels match at 2 pixels, 12 of the 20 at 1 pixel."""
    region = np.zeros((1, 20, 40), bool)
    region[0, 5:11, 20:26] = True
    counts = boundary_counts(region, np.roll(region, 2, axis=2))[0]
    # At 1 pixel, 5 of the 6 pixels match in the top row (4 are shared, 1 is next to them), as many
    # in the bottom row; of the trailing side the 2 pixels next to these rows, of the leading none.
    np.testing.assert_array_equal(counts, [[12, 20, 12, 20], [20] * 4, [20] * 4])
    np.testing.assert_allclose(boundary_f_score(counts), [0.6, 1, 1])


def test_the_frame_is_not_a_boundary():
    mask = np.ones((1, 4, 12), np.uint8)
    mask[:, :, 6:9], mask[:, :, 9:] = 2, 0  # the border, and the pet as far as the frame
    expected = np.zeros(mask.shape, bool)
    expected[:, :, 6] = True
    np.testing.assert_array_equal(boundary(silhouette(mask)), expected)


def test_f_score_is_the_harmonic_mean_and_undefined_without_a_boundary():
    counts = [[0, 0, 0, 0], [0, 0, 0, 4], [0, 5, 0, 4], [4, 4, 4, 4], [2, 4, 6, 6]]
    np.testing.assert_allclose(boundary_f_score(counts), [np.nan, 0, 0, 1, 2 / 3])
    # Summed: precision 6/13, recall 10/18.
    total = np.sum(counts, axis=0)
    np.testing.assert_allclose(boundary_f_score(total), 2 / (13 / 6 + 18 / 10))
