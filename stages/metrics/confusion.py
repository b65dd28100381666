"""Confusion matrices of segmentation masks, and the metrics that are functions of them.

A confusion matrix holds pixel counts, `[class (true), class (predicted)]`; a dataset's is the sum
of its images'. Every metric takes counts `[..., class, class]`, so that one image, a dataset and a
stack of bootstrap draws go through the same code, and returns float64 in [0, 1].

A ratio whose denominator is zero is undefined (NaN):

- A class absent from truth and prediction has no IoU and no Dice, and is left out of a mean, as
  `keras.metrics.MeanIoU` does.
- A class absent from the truth but predicted has IoU 0 and Dice 0, and no recall.
- A class in the truth that is never predicted has IoU 0, Dice 0 and recall 0, and no precision.
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
    counts = np.asarray(matrices)
    return _ratio(_correct(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union (Jaccard index) of each class, `[..., class]`."""
    counts = np.asarray(matrices)
    correct = _correct(counts)
    return _ratio(correct, counts.sum(axis=-1) + counts.sum(axis=-2) - correct)


def dice(matrices: ArrayLike) -> NDArray[np.float64]:
    """Dice coefficient (F1 score) of each class, `[..., class]`."""
    counts = np.asarray(matrices)
    return _ratio(2 * _correct(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def precision(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of the pixels predicted as a class that belong to it, `[..., class]`."""
    counts = np.asarray(matrices)
    return _ratio(_correct(counts), counts.sum(axis=-2))


def recall(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of a class's pixels that are predicted as it, `[..., class]`."""
    counts = np.asarray(matrices)
    return _ratio(_correct(counts), counts.sum(axis=-1))


def mean_iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Mean of the IoU over the classes that occur in truth or prediction, `[...]`.

    Of a dataset's summed matrix, this is the mean IoU of PASCAL VOC (Everingham et al., IJCV
    2010), in which large objects weigh more; the mean over images of each image's is that of
    Csurka et al. (BMVC 2013).
    """
    of_classes = iou(matrices)
    return _ratio(np.nansum(of_classes, axis=-1), np.sum(~np.isnan(of_classes), axis=-1))


def pet_iou_border_as_pet(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet where the border counts as pet, in truth and prediction alike, `[...]`.

    The convention of binary experiments on this dataset, such as the loader of
    segmentation_models_pytorch, which takes labels 1 (pet) and 3 (border) for foreground.
    """
    counts = np.asarray(matrices)
    foreground = [PET, BORDER]
    both = counts[..., foreground, :][..., foreground].sum(axis=(-2, -1))
    return _ratio(both, counts.sum(axis=(-2, -1)) - counts[..., BACKGROUND, BACKGROUND])


def pet_iou_border_left_out(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet over the pixels whose true class is not border, `[...]`.

    The dataset's authors label the border "not classified", and PASCAL VOC leaves such void pixels
    of the truth out of its IoU, as `keras.metrics.IoU(ignore_class=2)` does. A predicted border is
    not-pet: left out too, it would let a network choose where it is judged.
    """
    counts = np.asarray(matrices)
    truly_pet = counts[..., PET, :].sum(axis=-1)
    return _ratio(counts[..., PET, PET], truly_pet + counts[..., BACKGROUND, PET])


def _correct(counts: NDArray[np.number]) -> NDArray[np.number]:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)
