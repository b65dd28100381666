"""Confusion matrices of segmentation masks, and the metrics that are functions of them.

A confusion matrix holds pixel counts, `[class (true), class (predicted)]`. Metrics take
`[..., class, class]`: one image, a summed dataset or bootstrap draws; and return float64 in [0, 1].
A ratio whose denominator is zero is NaN: a class absent from truth and prediction has no IoU, and
is left out of a mean, as by `keras.metrics.MeanIoU`; one never predicted has no precision.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.records.classes import BACKGROUND, BORDER, PET


def confusion_matrices(
    mask: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Count pixels of `[image, height, width]` by true and predicted class, int64."""
    pairs = (mask.astype(np.intp) * num_classes + prediction).reshape(len(mask), -1)
    counts = [np.bincount(image, minlength=num_classes**2) for image in pairs]
    return np.array(counts, np.int64).reshape(-1, num_classes, num_classes)


def pixel_accuracy(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of pixels predicted correctly, `[...]`."""
    counts = np.asarray(matrices)
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def class_metrics(matrices: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """IoU (Jaccard index), Dice (F1 score), precision and recall of each class, `[..., class]`."""
    counts = np.asarray(matrices)
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    return {
        "iou": _ratio(correct, true + predicted - correct),
        "dice": _ratio(2 * correct, true + predicted),
        "precision": _ratio(correct, predicted),
        "recall": _ratio(correct, true),
    }


def mean_iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Mean of the IoU over the classes that occur in truth or prediction, `[...]`.

    Of a summed matrix, that of PASCAL VOC (Everingham et al., IJCV 2010): large objects weigh more.
    The mean over images is that of Csurka et al. (BMVC 2013).
    """
    of_classes = class_metrics(matrices)["iou"]
    return _ratio(np.nansum(of_classes, axis=-1), np.sum(~np.isnan(of_classes), axis=-1))


def pet_iou_border_as_pet(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet with the border as pet, `[...]`, as segmentation_models_pytorch's loader."""
    counts = np.asarray(matrices)
    both = counts[..., [[PET], [BORDER]], [PET, BORDER]].sum(axis=(-2, -1))
    return _ratio(both, counts.sum(axis=(-2, -1)) - counts[..., BACKGROUND, BACKGROUND])


def pet_iou_border_left_out(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet over the pixels whose true class is not border, `[...]`.

    As PASCAL VOC leaves out void pixels, and `keras.metrics.IoU(ignore_class=2)` the border.
    A predicted border is not-pet: left out too, it would let a network choose where it is judged.
    """
    counts = np.asarray(matrices)
    truly_pet = counts[..., PET, :].sum(axis=-1)
    return _ratio(counts[..., PET, PET], truly_pet + counts[..., BACKGROUND, PET])


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> NDArray[np.float64]:
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
