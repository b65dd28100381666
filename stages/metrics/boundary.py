"""Boundary F-score: how well the outline of a segmented region follows the true outline.

IoU hardly notices an outline that is a few pixels off; the boundary F-score of Csurka et al.
("What is a good evaluation measure for semantic segmentation?", BMVC 2013) measures just that.
Precision is the share of predicted boundary pixels that have a true boundary pixel within a
tolerance, recall the share of true boundary pixels that have a predicted one, and F their harmonic
mean. As in the DAVIS benchmark (Perazzi et al., CVPR 2016), the distance is Euclidean and the
match is found by dilating the other boundary with a disk.

The region is the *silhouette*: pet and border together, against background. The trimap's border
is a band several pixels wide, and thin parts (tails, ears, legs) are border from side to side:
the pet class alone falls into pieces there, and its outline is the band's inner edge rather than
the animal's.

The matching works on rows packed 64 pixels to a word, where moving a row sideways is a shift and
growing a region is an OR.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.records.classes import BACKGROUND

# Distances in pixels at which boundaries match. DAVIS uses 0.8 % of the image's diagonal, which is
# between 1 and 2 pixels at 128 x 128.
TOLERANCES = (1, 2, 3)


def silhouette(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Region of the animal in a trimap or in predicted classes: pet and border together.

    Args:
        mask: Classes 0 pet, 1 background, 2 border; integers of any shape.

    Returns:
        True where the class is not background, bool of the same shape.
    """
    region: NDArray[np.bool_] = mask != BACKGROUND
    return region


def boundary(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Inner boundary of a region: its pixels that touch a pixel outside it by an edge.

    The image's frame is no boundary: where the region runs out of the image, no outline is seen.
    DAVIS instead marks a pixel that differs from its right or lower neighbours, which puts the
    boundary inside on two sides of a region and outside on the others; this one does not change
    when an image is mirrored or turned.

    Args:
        region: bool `[batch, height, width]`.

    Returns:
        bool `[batch, height, width]`; nowhere True for an empty region and for one that fills the
        image.

    Raises:
        ValueError: If the region is not a bool array `[batch, height, width]`.
    """
    _check_region("region", region)
    packed = _packed_boundary(region)
    bits = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little")
    return bits[..., : region.shape[-1]].astype(np.bool_)


def boundary_counts(
    true_region: NDArray[np.bool_],
    predicted_region: NDArray[np.bool_],
    tolerances: Sequence[int] = TOLERANCES,
) -> NDArray[np.int64]:
    """Count boundary pixels, and those matched by the other boundary, image by image.

    Counts add up: over a dataset, or over the images of a bootstrap draw.

    Args:
        true_region: bool `[batch, height, width]`.
        predicted_region: bool, same shape.
        tolerances: Distances in pixels, each from 0 (the same pixel) to 63.

    Returns:
        int64 `[batch, tolerance, 4]`: matched predicted, all predicted, matched true and all true
        boundary pixels. The second and fourth are the same at every tolerance.

    Raises:
        ValueError: If a region is not a bool array `[batch, height, width]`, if the shapes
            differ, or if there is no tolerance or one out of range.
    """
    _check_region("true_region", true_region)
    _check_region("predicted_region", predicted_region)
    if true_region.shape != predicted_region.shape:
        raise ValueError(
            f"the regions' shapes differ: true {true_region.shape}, "
            f"predicted {predicted_region.shape}"
        )
    if not tolerances or not all(0 <= tolerance < 64 for tolerance in tolerances):
        raise ValueError(f"tolerances must be 0 to 63 pixels, at least one, but are {tolerances}")

    true = _packed_boundary(true_region)
    predicted = _packed_boundary(predicted_region)
    near_true = _dilated(true, tolerances)
    near_predicted = _dilated(predicted, tolerances)
    counts = np.empty((len(true), len(tolerances), 4), np.int64)
    counts[:, :, 1] = _count(predicted)[:, np.newaxis]
    counts[:, :, 3] = _count(true)[:, np.newaxis]
    for index in range(len(tolerances)):
        counts[:, index, 0] = _count(predicted & near_true[index])
        counts[:, index, 2] = _count(true & near_predicted[index])
    return counts


def boundary_f_score(counts: ArrayLike) -> NDArray[np.float64]:
    """Boundary F-score from counts of one image, or from the summed counts of many.

    Args:
        counts: `[..., 4]` as from `boundary_counts`, or sums of these; integers or whole floats.

    Returns:
        F in [0, 1], float64 `[...]`. NaN where neither truth nor prediction has a boundary: there
        was nothing to find and nothing was claimed. 0 where only one of them has. (An empty region
        against one that fills the image is NaN as well, since neither has a boundary: that
        mistake is the IoU's to show.)

    Raises:
        ValueError: If the last axis is not 4 long, or a count is negative or NaN.
    """
    array = np.asarray(counts, np.float64)
    if array.ndim < 1 or array.shape[-1] != 4:
        raise ValueError(f"counts must be [..., 4], but the shape is {array.shape}")
    if not np.all(array >= 0):
        raise ValueError("a count of boundary pixels is negative or NaN")
    matched_predicted, predicted, matched_true, true = np.moveaxis(array, -1, 0)
    # With precision a/b and recall c/d, F = 2ac / (ad + cb): no division by zero on the way.
    numerator = 2 * matched_predicted * matched_true
    denominator = matched_predicted * true + matched_true * predicted
    f_score = np.where(predicted + true > 0, 0.0, np.nan)
    np.divide(numerator, denominator, out=f_score, where=denominator > 0)
    return f_score


def mean_boundary_f_score(counts: ArrayLike) -> NDArray[np.float64]:
    """Mean over images of each image's boundary F-score, as Csurka et al. and DAVIS report it.

    Args:
        counts: `[..., image, tolerance, 4]` as from `boundary_counts`.

    Returns:
        Mean F in [0, 1] of the images that have a boundary in truth or prediction, float64
        `[..., tolerance]`; NaN where no image has.

    Raises:
        ValueError: If there is no image, or for what `boundary_f_score` refuses.
    """
    shape = np.shape(counts)
    if len(shape) < 3:
        raise ValueError(f"counts must be [..., image, tolerance, 4], but the shape is {shape}")
    if shape[-3] == 0:
        raise ValueError("there is no image to take the mean over: the split is empty")
    f_scores = boundary_f_score(counts)
    images = np.sum(~np.isnan(f_scores), axis=-2)
    mean = np.full(images.shape, np.nan)
    np.divide(np.nansum(f_scores, axis=-2), images, out=mean, where=images > 0)
    return mean


def _check_region(name: str, region: NDArray[np.bool_]) -> None:
    if region.ndim != 3 or region.dtype != np.bool_:
        raise ValueError(
            f"{name} must be bool [batch, height, width], but is {region.dtype} {region.shape}"
        )


def _packed(region: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack rows into words, `[batch, height, word]`; column 0 is the lowest bit, padding is 0."""
    batch, height, width = region.shape
    row_bytes = np.packbits(region, axis=-1, bitorder="little")
    padded = np.zeros((batch, height, 8 * math.ceil(width / 64)), np.uint8)
    padded[..., : row_bytes.shape[-1]] = row_bytes
    # "<u8", not the machine's own order: the first byte holds the leftmost pixels.
    return padded.view("<u8")


def _packed_boundary(region: NDArray[np.bool_]) -> NDArray[np.uint64]:
    # Grow the outside by one pixel: what it reaches of the region is the boundary. Beyond the
    # frame there is no outside, so the frame is never reached from there.
    (grown_outside,) = _dilated(_packed(~region), [1])
    return _packed(region) & grown_outside


def _shifted(words: NDArray[np.uint64], columns: int) -> NDArray[np.uint64]:
    """Move rows by -63 to 63 columns, not 0. Bits moved past the image land in the padding."""
    distance, carry = np.uint64(abs(columns)), np.uint64(64 - abs(columns))
    if columns > 0:
        moved = words << distance
        moved[..., 1:] |= words[..., :-1] >> carry
    else:
        moved = words >> distance
        moved[..., :-1] |= words[..., 1:] << carry
    return moved


def _dilated(words: NDArray[np.uint64], tolerances: Sequence[int]) -> list[NDArray[np.uint64]]:
    """Dilate by a disk of each radius. Padding may hold rubbish: AND with clean rows after it."""
    # A disk is a stack of row segments, and the disks share them: widen each row once per length.
    widened = [words]
    for reach in range(1, max(tolerances) + 1):
        widened.append(widened[-1] | _shifted(words, reach) | _shifted(words, -reach))

    dilated = []
    height = words.shape[1]
    for tolerance in tolerances:
        disk = widened[tolerance].copy()
        for rows in range(1, min(tolerance, height - 1) + 1):
            segment = widened[math.isqrt(tolerance**2 - rows**2)]
            disk[:, rows:] |= segment[:, :-rows]
            disk[:, :-rows] |= segment[:, rows:]
        dilated.append(disk)
    return dilated


def _count(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    bits: NDArray[np.int64] = np.bitwise_count(words).sum(axis=(-2, -1), dtype=np.int64)
    return bits
