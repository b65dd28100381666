"""Calibration: whether a pixel predicted with confidence 0.8 is right eight times out of ten.

The reliability diagram and the expected calibration error of Guo et al. ("On Calibration of Modern
Neural Networks", ICML 2017), taken over pixels. The confidence is the softmax probability of the
predicted class; pixels go into bins of equal width by their confidence, and a bin's mean
confidence is compared with its accuracy. All of it is a function of three sums per bin, so
batches, images and bootstrap draws add up.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# As many as Guo et al. use.
BINS = 15


class ReliabilityCurve(NamedTuple):
    """What a reliability diagram draws, each `[..., bin]`, from low to high confidence."""

    mean_confidence: NDArray[np.float64]  # in [0, 1], NaN for a bin without pixels
    accuracy: NDArray[np.float64]  # in [0, 1], NaN for a bin without pixels
    pixels: NDArray[np.int64]  # number of pixels in the bin


def top_label(logits: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    """Predicted class of each pixel and its softmax probability.

    The greatest logit is subtracted before the exponential, so nothing overflows. The predicted
    class then contributes exp(0) = 1, and its probability is one over the sum of exponentials.

    Args:
        logits: Finite floats of any size, `[batch, height, width, class]`, 1 to 256 classes.

    Returns:
        The confidence, in [1 / classes, 1] up to rounding, in the dtype of the logits, and the
        class, uint8, the first of equals; both `[batch, height, width]`.

    Raises:
        ValueError: If the shape, the dtype or the number of classes is another, or if a logit is
            NaN or infinite; the message names the first such logit's image.
    """
    if logits.ndim != 4 or not np.issubdtype(logits.dtype, np.floating):
        raise ValueError(
            "logits must be floats [batch, height, width, class], "
            f"but are {logits.dtype} {logits.shape}"
        )
    if not 1 <= logits.shape[-1] <= 256:
        raise ValueError(f"logits must be of 1 to 256 classes, but are of {logits.shape[-1]}")
    confidence = np.empty(logits.shape[:-1], logits.dtype)
    label = np.empty(logits.shape[:-1], np.uint8)
    # Image by image: what is computed on the way then stays in the cache.
    for image, image_logits in enumerate(logits):
        if not np.isfinite(image_logits).all():
            row, column, channel = np.argwhere(~np.isfinite(image_logits))[0]
            raise ValueError(
                f"logits of image {image} in the batch are not finite: "
                f"{image_logits[row, column, channel]} at row {row}, column {column}, "
                f"class {channel}"
            )
        confidence[image], label[image] = _image_top_label(image_logits)
    return confidence, label


def reliability_counts(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> NDArray[np.float64]:
    """Sort pixels into bins by confidence, and sum up each bin.

    Bin b holds the confidences in (b / bins, (b + 1) / bins], as in Guo et al.; 0 is in the first.
    A confidence within one rounding of an edge may fall on either side of it.

    Args:
        confidence: In [0, 1], of any shape.
        correct: Whether the predicted class is the true one, bool, same shape.
        bins: Number of bins of equal width, 1 or more.

    Returns:
        float64 `[bin, 3]`: number of pixels, sum of their confidences, number of correct ones.
        Add them up over batches. Zeros where there is no pixel.

    Raises:
        ValueError: If the shapes differ, if `correct` is not bool or `bins` not positive, or if a
            confidence is not a float in [0, 1].
    """
    (counts,) = _reliability_counts(confidence, correct, bins, images=1)
    return np.asarray(counts)


def image_reliability_counts(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = BINS
) -> NDArray[np.float64]:
    """`reliability_counts` of each image, which a bootstrap over images needs.

    Args:
        confidence: In [0, 1], `[batch, height, width]`, or any shape whose first axis is images.
        correct: Whether the predicted class is the true one, bool, same shape.
        bins: Number of bins of equal width, 1 or more.

    Returns:
        float64 `[batch, bin, 3]`, as from `reliability_counts`.

    Raises:
        ValueError: For what `reliability_counts` refuses.
    """
    if confidence.ndim < 1:
        raise ValueError("confidence must have an axis of images, but is a single number")
    return _reliability_counts(confidence, correct, bins, images=len(confidence))


def expected_calibration_error(counts: ArrayLike) -> NDArray[np.float64]:
    """Mean over pixels of the gap between their bin's mean confidence and its accuracy.

    Args:
        counts: `[..., bin, 3]` as from `reliability_counts`, or sums of these.

    Returns:
        Error in [0, 1], float64 `[...]`. A bin without pixels adds nothing.

    Raises:
        ValueError: If the shape is another, a count is negative or NaN, or there is no pixel.
    """
    count, confidence_sum, correct = _checked(counts)
    pixels = count.sum(axis=-1)
    if pixels.size == 0 or not np.all(pixels > 0):
        raise ValueError("the counts hold no pixel: the split is empty")
    # count / pixels * |confidence_sum / count - correct / count|, with the counts cancelled.
    error: NDArray[np.float64] = np.abs(confidence_sum - correct).sum(axis=-1) / pixels
    return error


def reliability_curve(counts: ArrayLike) -> ReliabilityCurve:
    """Mean confidence and accuracy of each bin.

    Args:
        counts: `[..., bin, 3]` as from `reliability_counts`, or sums of these.

    Returns:
        The curve; NaN for the mean confidence and accuracy of a bin without pixels.

    Raises:
        ValueError: If the shape is another, or a count is negative or NaN.
    """
    count, confidence_sum, correct = _checked(counts)
    mean_confidence = np.full(count.shape, np.nan)
    accuracy = np.full(count.shape, np.nan)
    np.divide(confidence_sum, count, out=mean_confidence, where=count > 0)
    np.divide(correct, count, out=accuracy, where=count > 0)
    return ReliabilityCurve(mean_confidence, accuracy, count.astype(np.int64))


def _image_top_label(
    logits: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
    # Class by class over whole planes, as a reduction over a last axis of three is slow.
    planes = np.moveaxis(logits, -1, 0).copy()
    greatest, others = planes[0], planes[1:]
    label = np.zeros(greatest.shape, np.uint8)
    for channel, plane in enumerate(others, start=1):
        higher = plane > greatest
        # A class that beats all before it has a higher number than they have.
        np.maximum(label, higher * np.uint8(channel), out=label)
        # The plane keeps the loser: the greatest logit's exponential is 1 and need not be taken.
        loser = np.minimum(plane, greatest)
        np.maximum(plane, greatest, out=greatest)
        plane[...] = loser
    # A difference too large for the dtype becomes -inf, and its exponential 0, as it should.
    with np.errstate(over="ignore"):
        others -= greatest
    np.exp(others, out=others)
    return np.reciprocal(1 + others.sum(axis=0)), label


def _reliability_counts(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int, images: int
) -> NDArray[np.float64]:
    if bins < 1:
        raise ValueError(f"bins is {bins}, but there must be at least one bin")
    if confidence.shape != correct.shape:
        raise ValueError(
            f"confidence and correct must have one shape, but have {confidence.shape} "
            f"and {correct.shape}"
        )
    if correct.dtype != np.bool_ or not np.issubdtype(confidence.dtype, np.floating):
        raise ValueError(
            "confidence must be of a float dtype and correct bool, but they are "
            f"{confidence.dtype} and {correct.dtype}"
        )
    if confidence.size == 0:
        return np.zeros((images, bins, 3))
    # NaN fails both comparisons, as minimum and maximum hand it on.
    if not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ValueError(
            f"confidence must be in [0, 1], but is in [{confidence.min()}, {confidence.max()}]"
        )

    # Twice the bin's number, plus one for a correct pixel: one pass counts both kinds.
    index = np.ceil(confidence * confidence.dtype.type(bins)).astype(np.int32)
    index *= 2
    index += correct
    # Most pixels fall into the top bin, and each addition to a sum waits for the one before it.
    # Four sums in turn for each bin take 40 % off the time.
    lanes = 4
    sums_per_lane = 2 * (bins + 1)
    index = index.reshape(images, -1)
    for lane in range(1, lanes):
        index[:, lane::lanes] += lane * sums_per_lane
    index += np.arange(images, dtype=np.int32)[:, np.newaxis] * (lanes * sums_per_lane)

    shape = (images, lanes, bins + 1, 2)
    length = math.prod(shape)
    count = np.bincount(index.ravel(), minlength=length)
    confidence_sum = np.bincount(index.ravel(), weights=confidence.ravel(), minlength=length)
    count = count.reshape(shape).sum(axis=1)
    confidence_sum = confidence_sum.reshape(shape).sum(axis=1)

    sums = np.stack([count.sum(axis=-1), confidence_sum.sum(axis=-1), count[..., 1]], axis=-1)
    # Rounding up put confidences of exactly 0 below the first bin.
    sums[:, 1] += sums[:, 0]
    return sums[:, 1:]


def _checked(
    counts: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    array = np.asarray(counts, np.float64)
    if array.ndim < 2 or array.shape[-1] != 3:
        raise ValueError(f"counts must be [..., bin, 3], but the shape is {array.shape}")
    if not np.all(array >= 0):
        raise ValueError("the counts hold a number that is negative or NaN")
    return array[..., 0], array[..., 1], array[..., 2]
