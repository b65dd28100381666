"""Confusion matrices of segmentation masks, and the metrics that are functions of them.

A confusion matrix holds pixel counts, `[class (true), class (predicted)]`. Matrices add up: the
matrix of a dataset is the sum of its images' matrices. Every metric here takes matrices with any
leading dimensions, `[..., class, class]`, so that one image, a stack of images, a whole dataset
and a stack of bootstrap draws go through the same code. Counts may be integers or whole floats.

A ratio whose denominator is zero is undefined, and NaN says so:

- A class absent from both truth and prediction has no IoU and no Dice: there was nothing to find
  and nothing was claimed. It is left out of a mean, as `keras.metrics.MeanIoU` does.
- A class absent from the truth but predicted has IoU 0 and Dice 0, and no recall.
- A class in the truth that is never predicted has IoU 0, Dice 0 and recall 0, and no precision.

A matrix without any pixel is another matter: the split was empty or the images have no area. The
metrics raise a `ValueError` for it, since a NaN in a table of results hides that.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.records.classes import BACKGROUND, BORDER, PET


def confusion_matrices(
    mask: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Count the pixels of each pair of true and predicted class, image by image.

    Args:
        mask: True classes, integers in `[0, num_classes)`, `[batch, height, width]`.
        prediction: Predicted classes, same shape and range; another integer dtype is fine.
        num_classes: Number of classes, 1 or more.

    Returns:
        Pixel counts, int64 `[batch, class (true), class (predicted)]`.

    Raises:
        ValueError: If the shapes differ or are not `[batch, height, width]`, if a dtype is not an
            integer's, or if a class is out of range; the message names the first such pixel.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}, but there must be at least one class")
    if mask.ndim != 3 or mask.shape != prediction.shape:
        raise ValueError(
            "mask and prediction must have one shape, [batch, height, width], "
            f"but have {mask.shape} and {prediction.shape}"
        )
    _check_classes("mask", mask, num_classes)
    _check_classes("prediction", prediction, num_classes)

    # One byte per pair keeps an image's pairs in the cache while they are counted; and counting
    # image by image is three times as fast as one bincount over a batch.
    dtype = np.dtype(np.uint8 if num_classes <= 16 else np.intp)
    pairs = mask.astype(dtype)
    pairs *= num_classes
    pairs += prediction.astype(dtype)
    matrices = np.empty((len(mask), num_classes * num_classes), np.int64)
    for image, image_pairs in enumerate(pairs):
        matrices[image] = np.bincount(image_pairs.ravel(), minlength=num_classes * num_classes)
    return matrices.reshape(-1, num_classes, num_classes)


def pixel_accuracy(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of pixels whose class is predicted correctly.

    Args:
        matrices: Pixel counts, `[..., class (true), class (predicted)]`.

    Returns:
        Accuracy in [0, 1], float64 `[...]`.

    Raises:
        ValueError: If the matrices are not square, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices)
    return _ratio(_correct(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union (Jaccard index) of each class.

    Args:
        matrices: Pixel counts, `[..., class (true), class (predicted)]`.

    Returns:
        IoU in [0, 1], float64 `[..., class]`; NaN for a class absent from truth and prediction.

    Raises:
        ValueError: If the matrices are not square, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices)
    correct = _correct(counts)
    return _ratio(correct, counts.sum(axis=-1) + counts.sum(axis=-2) - correct)


def dice(matrices: ArrayLike) -> NDArray[np.float64]:
    """Dice coefficient (F1 score) of each class, the harmonic mean of precision and recall.

    Args:
        matrices: Pixel counts, `[..., class (true), class (predicted)]`.

    Returns:
        Dice in [0, 1], float64 `[..., class]`; NaN for a class absent from truth and prediction.

    Raises:
        ValueError: If the matrices are not square, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices)
    return _ratio(2 * _correct(counts), counts.sum(axis=-1) + counts.sum(axis=-2))


def precision(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of the pixels predicted as a class that belong to it.

    Args:
        matrices: Pixel counts, `[..., class (true), class (predicted)]`.

    Returns:
        Precision in [0, 1], float64 `[..., class]`; NaN for a class never predicted.

    Raises:
        ValueError: If the matrices are not square, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices)
    return _ratio(_correct(counts), counts.sum(axis=-2))


def recall(matrices: ArrayLike) -> NDArray[np.float64]:
    """Share of a class's pixels that are predicted as it.

    Args:
        matrices: Pixel counts, `[..., class (true), class (predicted)]`.

    Returns:
        Recall in [0, 1], float64 `[..., class]`; NaN for a class absent from the truth.

    Raises:
        ValueError: If the matrices are not square, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices)
    return _ratio(_correct(counts), counts.sum(axis=-1))


def mean_iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Mean of the IoU over the classes that occur in truth or prediction.

    Of a dataset's summed matrix, this is the mean IoU of PASCAL VOC (Everingham et al., IJCV
    2010): large objects weigh more than small ones. `mean_image_iou` gives images equal weight.

    Args:
        matrices: Pixel counts, `[..., class (true), class (predicted)]`.

    Returns:
        Mean IoU in [0, 1], float64 `[...]`. Never NaN: a pixel has a class.

    Raises:
        ValueError: If the matrices are not square, or one holds no pixel or a negative count.
    """
    return _mean_of_defined(iou(matrices))


def mean_image_iou(matrices: ArrayLike) -> NDArray[np.float64]:
    """Mean over images of each image's mean IoU (Csurka et al., BMVC 2013).

    The mean within an image is over the classes that occur in that image's truth or prediction.

    Args:
        matrices: Pixel counts, `[..., image, class (true), class (predicted)]`.

    Returns:
        Mean in [0, 1], float64 `[...]`.

    Raises:
        ValueError: If there is no image axis or no image, if the matrices are not square, or if
            one holds no pixel or a negative count.
    """
    if np.ndim(matrices) < 3:
        raise ValueError(
            "the mean over images needs a stack [..., image, class, class], "
            f"but the shape is {np.shape(matrices)}"
        )
    mean: NDArray[np.float64] = np.mean(mean_iou(matrices), axis=-1)
    return mean


def pet_iou_border_as_pet(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet where the border counts as pet, in truth and prediction alike.

    The trimap's border straddles the outline, so this region is a little larger than the animal.
    Binary experiments on this dataset use it: the loader of segmentation_models_pytorch turns
    labels 1 (pet) and 3 (border) into foreground. Pet taken for border, or the reverse, is no
    error here.

    Args:
        matrices: Pixel counts, `[..., 3 (true), 3 (predicted)]`.

    Returns:
        IoU in [0, 1], float64 `[...]`; NaN where all is background in truth and prediction.

    Raises:
        ValueError: If the matrices are not 3 x 3, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices, num_classes=3)
    foreground = [PET, BORDER]
    both = counts[..., foreground, :][..., foreground].sum(axis=(-2, -1))
    either = counts.sum(axis=(-2, -1)) - counts[..., BACKGROUND, BACKGROUND]
    return _ratio(both, either)


def pet_iou_border_left_out(matrices: ArrayLike) -> NDArray[np.float64]:
    """IoU of the pet over the pixels whose true class is not border.

    The dataset's authors label the border "not classified", and PASCAL VOC (Everingham et al.,
    IJCV 2010) leaves such void pixels of the truth out of its IoU; this does the same. Which
    pixels count depends on the truth alone. To leave out the pixels *predicted* as border too
    would let a network choose where it is judged: with border wherever it is in doubt, it would
    score 1. A predicted border is therefore not-pet: a miss on a pet pixel, and on a background
    pixel no claim that there is pet. `keras.metrics.IoU(ignore_class=2)` agrees.

    Args:
        matrices: Pixel counts, `[..., 3 (true), 3 (predicted)]`.

    Returns:
        IoU in [0, 1], float64 `[...]`; NaN where no pet is in truth or prediction outside the
        border.

    Raises:
        ValueError: If the matrices are not 3 x 3, or one holds no pixel or a negative count.
    """
    counts = _checked(matrices, num_classes=3)
    truly_pet = counts[..., PET, :].sum(axis=-1)
    return _ratio(counts[..., PET, PET], truly_pet + counts[..., BACKGROUND, PET])


def _check_classes(name: str, classes: NDArray[np.integer], num_classes: int) -> None:
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"{name} must hold integer classes, but its dtype is {classes.dtype}")
    if classes.size and (classes.min() < 0 or classes.max() >= num_classes):
        image, row, column = np.argwhere((classes < 0) | (classes >= num_classes))[0]
        raise ValueError(
            f"{name} of image {image} has class {classes[image, row, column]} at row {row}, "
            f"column {column}, but classes must be in [0, {num_classes})"
        )


def _checked(matrices: ArrayLike, num_classes: int | None = None) -> NDArray[np.number]:
    counts = np.asarray(matrices)
    if counts.ndim < 2 or counts.shape[-2] != counts.shape[-1]:
        raise ValueError(f"matrices must be [..., class, class], but the shape is {counts.shape}")
    if num_classes is not None and counts.shape[-1] != num_classes:
        raise ValueError(
            f"matrices must be of {num_classes} classes (pet, background, border), "
            f"but are of {counts.shape[-1]}"
        )
    if counts.size == 0:
        raise ValueError(
            f"there is no confusion matrix in shape {counts.shape}: the split is empty"
        )
    if not np.all(counts >= 0):
        raise ValueError("a confusion matrix holds a count that is negative or NaN")
    empty = np.argwhere(counts.sum(axis=(-2, -1)) == 0)
    if len(empty):
        where = f" at {tuple(map(int, empty[0]))}" if counts.ndim > 2 else ""
        raise ValueError(f"the confusion matrix{where} holds no pixel: the split is empty")
    return counts


def _correct(counts: NDArray[np.number]) -> NDArray[np.number]:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    denominator = np.asarray(denominator)
    undefined = np.full(denominator.shape, np.nan)
    ratio: NDArray[np.float64] = np.divide(
        numerator, denominator, out=undefined, where=denominator > 0
    )
    return ratio


def _mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(np.nansum(values, axis=-1), np.sum(~np.isnan(values), axis=-1))
