"""Boundary F-score, against distance transforms."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from stages.metrics.boundary import (
    boundary,
    boundary_counts,
    boundary_f_score,
    mean_boundary_f_score,
    silhouette,
)

# A division by zero or an overflow that is meant is dealt with where it happens.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

PROFILE = settings(deadline=None, derandomize=True, max_examples=60)
# On both sides of a word's and of a byte's end.
WIDTHS = st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 127, 128, 129, 150]))


@st.composite
def region_pairs(draw):
    """Two regions, `[batch, height, width]`: blobs, specks, empty or full."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(WIDTHS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pair = []
    for _ in range(2):
        noise = rng.normal(size=shape)
        smooth = draw(st.sampled_from([0.0, 1.0, 3.0]))
        noise = ndimage.gaussian_filter(noise, (0, smooth, smooth))
        share = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
        if share in (0.0, 1.0):
            pair.append(np.full(shape, bool(share)))
        else:
            pair.append(noise < np.quantile(noise, share))
    return tuple(pair)


def _boundary(region):
    """Boundary of one region by erosion, with the frame counted as inside."""
    return region & ~ndimage.binary_erosion(region, border_value=1)


def _matched(boundary_pixels, other, tolerance):
    """Number of boundary pixels at most `tolerance` away from the other boundary."""
    if not other.any():
        return 0
    distance = ndimage.distance_transform_edt(~other)
    # A distance transform is exact up to rounding; the squares are whole numbers.
    return np.sum(boundary_pixels & (np.rint(distance**2) <= tolerance**2))


@PROFILE
@given(region_pairs())
def test_boundary_is_what_erosion_takes_away(pair):
    """An erosion by the cross-shaped neighbourhood, which stops at the frame."""
    for region in pair:
        expected = np.stack([_boundary(image) for image in region])
        np.testing.assert_array_equal(boundary(region), expected)


@PROFILE
@given(region_pairs(), st.sampled_from([(1, 2, 3), (0,), (5, 2), (20,), (63, 1)]))
@example((np.ones((1, 1, 1), bool), np.zeros((1, 1, 1), bool)), (1, 2, 3))
def test_counts_are_those_of_a_distance_transform(pair, tolerances):
    """Every count of every image at every tolerance."""
    counts = boundary_counts(pair[0], pair[1], tolerances)
    assert counts.dtype == np.int64
    expected = []
    for true_region, predicted_region in zip(*pair, strict=True):
        true, predicted = _boundary(true_region), _boundary(predicted_region)
        expected.append(
            [
                (
                    _matched(predicted, true, tolerance),
                    predicted.sum(),
                    _matched(true, predicted, tolerance),
                    true.sum(),
                )
                for tolerance in tolerances
            ]
        )
    np.testing.assert_array_equal(counts, expected)


@PROFILE
@given(region_pairs())
def test_counts_do_not_change_when_mirrored_or_turned(pair):
    """The boundary has no preferred side."""
    counts = boundary_counts(*pair)
    for turned in (
        [region[:, ::-1] for region in pair],
        [region[:, :, ::-1] for region in pair],
        [region.transpose(0, 2, 1) for region in pair],
    ):
        np.testing.assert_array_equal(boundary_counts(*turned), counts)


@PROFILE
@given(region_pairs())
def test_truth_and_prediction_exchanged_exchange_precision_and_recall(pair):
    """F is symmetric, and a region against itself scores 1."""
    counts = boundary_counts(*pair)
    np.testing.assert_array_equal(boundary_counts(*pair[::-1]), counts[..., [2, 3, 0, 1]])
    with_itself = boundary_f_score(boundary_counts(pair[0], pair[0]))
    has_boundary = counts[..., 3] > 0
    np.testing.assert_array_equal(with_itself, np.where(has_boundary, 1.0, np.nan))


@PROFILE
@given(hnp.arrays(np.int64, (5, 3, 2, 2), elements=st.integers(0, 9)))
def test_f_score_is_the_harmonic_mean(parts):
    """Against precision and recall computed on their own."""
    # Matched and unmatched pixels; one side cannot match a boundary that is not there.
    matched, unmatched = parts[..., 0], parts[..., 1]
    both = (matched.sum(axis=-1) + unmatched.sum(axis=-1) > 0) & np.all(matched > 0, axis=-1)
    matched = matched * both[..., np.newaxis]
    total = matched + unmatched
    counts = np.stack([matched[..., 0], total[..., 0], matched[..., 1], total[..., 1]], axis=-1)
    f_scores = boundary_f_score(counts)
    assert f_scores.shape == (5, 3)
    for f_score, (a, b, c, d) in zip(f_scores.ravel(), counts.reshape(-1, 4), strict=True):
        if b + d == 0:
            assert np.isnan(f_score)
        elif a == 0 or c == 0:
            assert f_score == 0
        else:
            assert f_score == pytest.approx(2 / (b / a + d / c))


def test_a_square_moved_by_two_pixels():
    """Worked by hand: all pixels match at 2 pixels, 12 of the 20 at 1 pixel."""
    region = np.zeros((1, 20, 100), bool)
    region[0, 5:11, 60:66] = True
    counts = boundary_counts(region, np.roll(region, 2, axis=2))[0]
    # At 1 pixel, 5 of the 6 pixels match in the top row (4 are shared, 1 is next to them), as many
    # in the bottom row; of the trailing side the 2 pixels next to these rows, of the leading none.
    np.testing.assert_array_equal(counts[:, 1], [20, 20, 20])
    np.testing.assert_array_equal(counts[1:, 0], [20, 20])
    np.testing.assert_array_equal(counts[0], [12, 20, 12, 20])
    np.testing.assert_allclose(boundary_f_score(counts), [0.6, 1, 1])


def test_the_frame_is_no_boundary():
    """An animal that is cut by the frame has an outline only where it ends within the image."""
    region = np.zeros((1, 4, 70), bool)
    region[:, :, 66:] = True
    expected = np.zeros_like(region)
    expected[:, :, 66] = True
    np.testing.assert_array_equal(boundary(region), expected)


def test_silhouette_is_pet_and_border():
    """Only the background is outside."""
    mask = np.array([[[0, 1, 2]]], np.uint8)
    np.testing.assert_array_equal(silhouette(mask), [[[True, False, True]]])
    assert silhouette(mask).dtype == np.bool_


def test_mean_over_images_leaves_out_images_without_a_boundary():
    """Undefined in the one image, 0 in the next, 1 and 2/3 in the others."""
    counts = np.array([[[0, 0, 0, 0]], [[0, 0, 0, 4]], [[4, 4, 4, 4]], [[2, 4, 6, 6]]])
    np.testing.assert_allclose(boundary_f_score(counts)[:, 0], [np.nan, 0, 1, 2 / 3])
    np.testing.assert_allclose(mean_boundary_f_score(counts), [5 / 9])
    # Summed over the images: precision 6/8, recall 10/14.
    np.testing.assert_allclose(boundary_f_score(counts.sum(axis=0)), [2 / (8 / 6 + 14 / 10)])
    np.testing.assert_array_equal(mean_boundary_f_score(counts[:1]), [np.nan])
    stacked = mean_boundary_f_score(np.stack([counts, counts[::-1]]))
    np.testing.assert_allclose(stacked, [[5 / 9], [5 / 9]])


def test_no_image():
    """A batch may be empty; a mean over no image may not."""
    none = np.zeros((0, 8, 8), bool)
    counts = boundary_counts(none, none)
    assert counts.shape == (0, 3, 4)
    with pytest.raises(ValueError, match="split is empty"):
        mean_boundary_f_score(counts)


def test_what_is_refused():
    """The message says what was wrong."""
    region = np.zeros((2, 8, 8), bool)
    with pytest.raises(ValueError, match=r"true_region must be bool .* but is uint8 \(2, 8, 8\)"):
        boundary_counts(region.astype(np.uint8), region)
    with pytest.raises(ValueError, match=r"predicted_region must be bool .*\(8, 8\)"):
        boundary_counts(region, region[0])
    with pytest.raises(ValueError, match="shapes differ"):
        boundary_counts(region, region[:, :4])
    with pytest.raises(ValueError, match="region must be bool"):
        boundary(region[0])
    for tolerances in ((), (1, 64), (-1,)):
        with pytest.raises(ValueError, match="tolerances must be 0 to 63"):
            boundary_counts(region, region, tolerances)
    with pytest.raises(ValueError, match="must be"):
        boundary_f_score(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="negative or NaN"):
        boundary_f_score([-1, 0, 0, 0])
    with pytest.raises(ValueError, match=r"\.\.\., image, tolerance, 4"):
        mean_boundary_f_score(np.zeros((3, 4)))
