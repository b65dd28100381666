"""Boundary F-score: how well the outline of a segmented region follows the true outline.

After Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013).
Precision is the share of predicted boundary pixels that have a true boundary pixel within a
tolerance, recall the share of true boundary pixels that have a predicted one, and F their harmonic
mean. As in the DAVIS benchmark (Perazzi et al., CVPR 2016), the distance is Euclidean.

The region is the *silhouette*: pet and border together, against background. Thin parts (tails,
ears, legs) are border from side to side, so the pet class alone falls into pieces there.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.records.classes import BACKGROUND

# Distances in pixels at which boundaries match. DAVIS uses 0.8 % of the image's diagonal, which is
# between 1 and 2 pixels at 128 x 128.
TOLERANCES = (1, 2, 3)


def silhouette(mask: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Where a mask or prediction is pet or border; any shape."""
    return mask != BACKGROUND


def boundary(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a region that touch a pixel outside it by an edge, `[batch, height, width]`.

    The image's frame is not a boundary: where the region runs out of the image, no outline is
    seen. Unlike DAVIS', this boundary does not change when an image is mirrored or turned.
    """
    return region & _dilated(~region)[0]


def boundary_counts(
    true_region: NDArray[np.bool_], predicted_region: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Count boundary pixels, and those matched by the other boundary, image by image.

    Args:
        true_region: bool `[batch, height, width]`.
        predicted_region: bool, same shape.

    Returns:
        int64 `[batch, tolerance, 4]`: matched predicted, all predicted, matched true and all true
        boundary pixels. The second and fourth are the same at every tolerance.
    """
    true, predicted = boundary(true_region), boundary(predicted_region)
    found = [
        (predicted & near_true, predicted, true & near_predicted, true)
        for near_true, near_predicted in zip(_dilated(true), _dilated(predicted), strict=True)
    ]
    counts = [[pixels.sum(axis=(1, 2)) for pixels in of_tolerance] for of_tolerance in found]
    return np.moveaxis(np.array(counts, np.int64), -1, 0)


def boundary_f_score(counts: ArrayLike) -> NDArray[np.float64]:
    """Boundary F-score in [0, 1] of `boundary_counts` of one image or summed, `[..., 4]`.

    NaN where neither truth nor prediction has a boundary, 0 where only one of them has.
    """
    matched_predicted, predicted, matched_true, true = np.moveaxis(np.asarray(counts), -1, 0)
    # With precision a/b and recall c/d, F = 2ac / (ad + cb): no division by zero on the way.
    denominator = matched_predicted * true + matched_true * predicted
    f_score = np.where(predicted + true > 0, 0.0, np.nan)
    numerator = 2 * matched_predicted * matched_true
    return np.divide(numerator, denominator, out=f_score, where=denominator > 0)


def _dilated(pixels: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Pixels within each tolerance of one of `pixels`, `[batch, height, width]`."""
    reach = max(TOLERANCES)
    height, width = pixels.shape[1:]
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach)))
    dilated = []
    for tolerance in TOLERANCES:
        disk = np.zeros_like(pixels)
        for row in range(-tolerance, tolerance + 1):
            for column in range(-tolerance, tolerance + 1):
                if row**2 + column**2 <= tolerance**2:
                    top, left = reach + row, reach + column
                    disk |= padded[:, top : top + height, left : left + width]
        dilated.append(disk)
    return dilated
