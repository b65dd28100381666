"""Confusion matrices of segmentation masks, and the metrics that are functions of them.

A confusion matrix holds pixel counts, `[class (true), class (predicted)]`. Every metric takes
`[..., class, class]`, so that one image, a dataset's summed matrix and bootstrap draws go through
the same code, and returns float64 in [0, 1]. A ratio whose denominator is zero is NaN: a class
absent from truth and prediction has no IoU and no Dice, and is left out of a mean, as
`keras.metrics.MeanIoU` does; a class never predicted has no precision, an absent one no recall.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.records.classes import BACKGROUND, BORDER, PET


def confusion_matrices(
    mask: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Count the pixels of each pair of true and predicted class, image by image.

    Args:
        mask: True classes in `[0, num_classes)`, `[batch, height, width]`.
        prediction: Predicted classes, same shape and range.
        num_classes: Number of classes.

    Returns:
        int64 `[batch, class (true), class (predicted)]`.
    """
    pairs = (mask.astype(np.intp) * num_classes + prediction).reshape(len(mask), -1)
    counts = [np.bincount(image, minlength=num_classes**2) for image in pairs]
    return np.array(counts, np.int64).reshape(-1, num_classes, num_classes)


def pixel_accuracy(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of pixels whose class is predicted correctly, `[...]`."""
    correct, true, _ = _per_class(matrices)
    return _ratio(correct.sum(axis=-1), true.sum(axis=-1))


def iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union (Jaccard index) of each class, `[..., class]`."""
    correct, true, predicted = _per_class(matrices)
    return _ratio(correct, true + predicted - correct)


def dice(matrices: ArrayLike) -> NDArray[np.float64]:
    """Dice coefficient (F1 score) of each class, `[..., class]`."""
    correct, true, predicted = _per_class(matrices)
    return _ratio(2 * correct, true + predicted)


def precision(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of the pixels predicted as a class that belong to it, `[..., class]`."""
    correct, _, predicted = _per_class(matrices)
    return _ratio(correct, predicted)


def recall(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of a class's pixels that are predicted as it, `[..., class]`."""
    correct, true, _ = _per_class(matrices)
    return _ratio(correct, true)


def mean_iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Mean of the IoU over the classes that occur in truth or prediction, `[...]`.

    Of a dataset's summed matrix, that of PASCAL VOC (Everingham et al., IJCV 2010): large objects
    weigh more. The mean of each image's is that of Csurka et al. (BMVC 2013).
    """
    of_classes = iou(matrices)
    return _ratio(np.nansum(of_classes, axis=-1), np.sum(~np.isnan(of_classes), axis=-1))


def pet_iou_border_as_pet(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet where the border counts as pet, in truth and prediction alike, `[...]`.

    The convention of binary experiments on this dataset, such as the loader of
    segmentation_models_pytorch.
    """
    counts = np.asarray(matrices)
    both = counts[..., [[PET], [BORDER]], [PET, BORDER]].sum(axis=(-2, -1))
    return _ratio(both, counts.sum(axis=(-2, -1)) - counts[..., BACKGROUND, BACKGROUND])


def pet_iou_border_left_out(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet over the pixels whose true class is not border, `[...]`.

    PASCAL VOC leaves void pixels of the truth out, and so does `keras.metrics.IoU(ignore_class=2)`.
    A predicted border is not-pet: left out too, it would let a network choose where it is judged.
    """
    counts = np.asarray(matrices)
    truly_pet = counts[..., PET, :].sum(axis=-1)
    return _ratio(counts[..., PET, PET], truly_pet + counts[..., BACKGROUND, PET])


def _per_class(matrices: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of each class that are correct, true and predicted, `[..., class]` each."""
    counts = np.asarray(matrices)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1), counts.sum(axis=-2)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> NDArray[np.float64]:
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)
