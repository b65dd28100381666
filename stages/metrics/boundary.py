"""Boundary F-score: how well the outline of a segmented region follows the true outline.

After Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013):
precision is the share of predicted boundary pixels that have a true one within a tolerance, recall
the reverse. As in DAVIS (Perazzi et al., CVPR 2016), distance is Euclidean.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.records.classes import BACKGROUND

# Distances in pixels at which boundaries match. DAVIS uses 0.8 % of the image's diagonal, which is
# between 1 and 2 pixels at 128 x 128.
TOLERANCES = (1, 2, 3)

Regions = NDArray[np.bool_]  # [batch, height, width]


def silhouette(mask: NDArray[np.integer]) -> Regions:
    """Where a mask is pet or border: thin parts, such as tails, are border from side to side."""
    return mask != BACKGROUND


def boundary(region: Regions) -> Regions:
    """Pixels of a region that touch one outside it by an edge, not the image's frame.

    Unlike DAVIS', this boundary does not change when an image is mirrored or turned.
    """
    return region & _dilated(~region, 1)


def boundary_counts(true_region: Regions, predicted_region: Regions) -> NDArray[np.int64]:
    """Matched predicted, predicted, matched true, true boundary pixels: `[image, tolerance, 4]`."""
    true, predicted = boundary(true_region), boundary(predicted_region)
    rows = [
        [predicted & _dilated(true, radius), predicted, true & _dilated(predicted, radius), true]
        for radius in TOLERANCES
    ]
    return np.sum(rows, axis=(3, 4)).transpose(2, 0, 1)


def boundary_f_score(counts: ArrayLike) -> NDArray[np.float64]:
    """Boundary F-score in [0, 1] of `boundary_counts`, of one image or summed, `[..., 4]`.

    NaN where neither truth nor prediction has a boundary, 0 where only one of them has.
    """
    matched_predicted, predicted, matched_true, true = np.moveaxis(np.asarray(counts), -1, 0)
    # With precision a/b and recall c/d, F = 2ac / (ad + cb): no division by zero on the way.
    denominator = matched_predicted * true + matched_true * predicted
    f_score = np.where(predicted + true > 0, 0.0, np.nan)
    numerator = 2 * matched_predicted * matched_true
    return np.divide(numerator, denominator, out=f_score, where=denominator > 0)


def _dilated(pixels: Regions, radius: int) -> Regions:
    """Dilate by a disk."""
    height, width = pixels.shape[1:]
    padded = np.pad(pixels, ((0, 0), (radius, radius), (radius, radius)))
    dilated = np.zeros_like(pixels)
    for row, column in np.ndindex(2 * radius + 1, 2 * radius + 1):
        if (row - radius) ** 2 + (column - radius) ** 2 <= radius**2:
            dilated |= padded[:, row : row + height, column : column + width]
    return dilated
