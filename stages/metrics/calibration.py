"""Calibration: whether a pixel predicted with confidence 0.8 is right eight times out of ten.

The reliability diagram and the expected calibration error of Guo et al., "On Calibration of Modern
Neural Networks" (ICML 2017), over pixels: functions of three sums per bin of confidence.
"""

import numpy as np
from numpy.typing import NDArray

BINS = 15  # as many as Guo et al. use


def image_reliability_counts(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Pixels, sum of their confidences and correct pixels: float64 `[image, bin, 3]`.

    Confidence is the softmax probability of the predicted class, `[image, ...]`. Bin b holds
    (b / BINS, (b + 1) / BINS]; 0 is in the first.
    """
    bins = np.maximum(np.ceil(confidence * BINS).astype(np.intp) - 1, 0).reshape(len(correct), -1)
    bins += np.arange(len(correct))[:, np.newaxis] * BINS
    weights = [None, confidence.ravel(), correct.ravel()]
    sums = [np.bincount(bins.ravel(), of_pixel, len(correct) * BINS) for of_pixel in weights]
    return np.stack(sums, axis=-1).astype(np.float64).reshape(-1, BINS, 3)


def expected_calibration_error(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean gap in [0, 1] between confidence and accuracy of a pixel's bin; sums `[..., bin, 3]`."""
    pixels, confidence, correct = np.moveaxis(counts, -1, 0)
    # pixels / total * |confidence / pixels - correct / pixels|, with the bin's pixels cancelled.
    return np.abs(confidence - correct).sum(axis=-1) / pixels.sum(axis=-1)


def reliability_curve(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean confidence and accuracy, `[2, bin]`, of sums `[bin, 3]`; NaN in a bin without pixels."""
    pixels, confidence, correct = np.where(counts[:, :1] > 0, counts, np.nan).T
    return np.stack([confidence, correct]) / pixels
