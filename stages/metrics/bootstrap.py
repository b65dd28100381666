"""Confidence intervals by the percentile bootstrap over images.

Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13: draw as many images as
there are, with replacement, compute the statistic, and repeat; the interval lies between
percentiles of the results. The unit drawn is the image, since the pixels of one image are not
independent of each other.

The statistic must be a function of *sums over images*, such as the mean IoU of a summed confusion
matrix. A draw is then a count per image (multinomial), and all draws are one product of matrices,
`[draw, image] @ [image, sum]`. A mean over images of a value per image is such a function too: see
`mean_terms`.

The same seed, images and number of draws give the same draws, whatever the statistic.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Efron & Tibshirani ask for 1,000 draws or more where percentiles are to be read off.
DRAWS = 2000

LEVEL = 0.95

# Maps sums `[draw, ...]` to one value, or an array of values, per draw: `[draw, ...]`.
Statistic: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

# Draws made at once: 250 x 3,669 images in float64 are 7 MB.
_BLOCK = 250


def confidence_interval(
    per_image: ArrayLike,
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of a statistic of sums over images.

    A statistic may be NaN in a draw: of the few images with some class, the draw has none. Such
    draws are left out, but only up to a share of `1 - level` of them: beyond that an interval of
    the rest would promise more than it keeps, and is NaN. It is NaN too where the statistic of
    the images themselves is NaN. Each value of a statistic is judged on its own.

    Args:
        per_image: What is summed, finite, `[image, ...]`: for example confusion matrices
            `[image, class, class]`.
        statistic: Maps float64 sums `[draw, ...]` to values `[draw, ...]`; sums of integers are
            exact.
        seed: Seed of the generator that draws.
        draws: Number of draws.
        level: Share of the draws within the interval, in (0, 1).

    Returns:
        Low and high end, each float64 in the shape of one draw's value (`[]` for a number).

    Raises:
        ValueError: If there is no image, if `per_image` is not finite (the message names the
            image) or its sums would not be exact in float64, if `draws` or `level` is out of
            range, or if the statistic does not return one value per draw.
    """
    stack = _checked("per_image", per_image)
    _check_options(draws, level)
    sums = _resampled_sums(_flat(stack), draws, seed).reshape(draws, *stack.shape[1:])
    return _percentiles(_apply(statistic, sums), _of_all_images(statistic, stack), level)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Difference between two networks on the same images, with its percentile interval.

    Both networks are given the same draws of images. An image that is hard for both then moves
    both alike, and the interval of the difference is narrower than the two intervals suggest: two
    networks may differ clearly although their own intervals overlap.

    Args:
        first: What is summed for the one network, finite, `[image, ...]`.
        second: The same for the other, of the same images in the same order, same shape.
        statistic: Maps float64 sums `[draw, ...]` to values `[draw, ...]`.
        seed: Seed of the generator that draws.
        draws: Number of draws.
        level: Share of the draws within the interval, in (0, 1).

    Returns:
        The difference of the statistic, first less second, over the images themselves, and the
        low and high end of its interval, each float64 in the shape of one draw's value. NaN as in
        `confidence_interval`.

    Raises:
        ValueError: If the shapes differ, or for what `confidence_interval` refuses.
    """
    stacks = [_checked("first", first), _checked("second", second)]
    shape = stacks[0].shape
    if shape != stacks[1].shape:
        raise ValueError(
            f"a paired difference needs the same images twice, but first is {shape} "
            f"and second is {stacks[1].shape}"
        )
    _check_options(draws, level)
    both = np.concatenate([_flat(stack) for stack in stacks], axis=1)
    sums = _resampled_sums(both, draws, seed).reshape(draws, 2, *shape[1:])
    of_draws = _apply(statistic, sums[:, 0]) - _apply(statistic, sums[:, 1])
    difference = _of_all_images(statistic, stacks[0]) - _of_all_images(statistic, stacks[1])
    return difference, *_percentiles(of_draws, difference, level)


def mean_terms(values: ArrayLike) -> NDArray[np.float64]:
    """Turn a value per image into sums a bootstrap can draw, with `mean_of_terms` the statistic.

    Args:
        values: `[image, ...]`; NaN where an image has no value.

    Returns:
        float64 `[image, ..., 2]`: the value, or 0 for NaN, and 1, or 0 for NaN.
    """
    array = np.asarray(values, np.float64)
    defined = ~np.isnan(array)
    return np.stack([np.where(defined, array, 0.0), defined.astype(np.float64)], axis=-1)


def mean_of_terms(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the images that have a value, from summed `mean_terms`.

    Args:
        sums: `[..., 2]`.

    Returns:
        float64 `[...]`; NaN where no image has a value.
    """
    total, images = sums[..., 0], sums[..., 1]
    mean = np.full(images.shape, np.nan)
    np.divide(total, images, out=mean, where=images > 0)
    return mean


def _check_options(draws: int, level: float) -> None:
    if draws < 1:
        raise ValueError(f"draws is {draws}, but there must be at least one draw")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but must be between 0 and 1, both excluded")


def _checked(name: str, per_image: ArrayLike) -> NDArray[np.generic]:
    stack = np.asarray(per_image)
    if stack.ndim < 1 or len(stack) == 0:
        raise ValueError(f"{name} has shape {stack.shape}: no image to draw from")
    if stack.size == 0:
        return stack
    if np.issubdtype(stack.dtype, np.integer):
        # Python's integers, as the bound itself may be too large for NumPy's.
        greatest = len(stack) * max(abs(int(stack.min())), abs(int(stack.max())))
        if greatest > 2**53:
            raise ValueError(f"sums of {name} may reach {greatest}, beyond float64's exact 2**53")
    elif not np.isfinite(stack).all():
        image = int(np.argwhere(~np.isfinite(stack))[0, 0])
        raise ValueError(f"{name} of image {image} is not finite: every draw of it would be lost")
    return stack


def _flat(stack: NDArray[np.generic]) -> NDArray[np.float64]:
    return stack.reshape(len(stack), math.prod(stack.shape[1:])).astype(np.float64)


def _resampled_sums(flat: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """Sum `flat`, `[image, sum]`, over the images of each draw, `[draw, sum]`."""
    generator = np.random.default_rng(seed)
    images = len(flat)
    sums = np.empty((draws, flat.shape[1]))
    for start in range(0, draws, _BLOCK):
        block = min(_BLOCK, draws - start)
        # Counting uniform draws gives multinomial counts five times faster than multinomial().
        drawn = generator.integers(images, size=(block, images))
        times_drawn = np.stack([np.bincount(row, minlength=images) for row in drawn])
        sums[start : start + block] = times_drawn.astype(np.float64) @ flat
    return sums


def _apply(statistic: Statistic, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.asarray(statistic(sums), np.float64)
    if values.ndim < 1 or len(values) != len(sums):
        raise ValueError(
            f"the statistic must return values [{len(sums)}, ...], one per draw, for sums "
            f"{sums.shape}, but returned shape {values.shape}"
        )
    return values


def _of_all_images(statistic: Statistic, stack: NDArray[np.generic]) -> NDArray[np.float64]:
    total = _flat(stack).sum(axis=0).reshape(1, *stack.shape[1:])
    of_images: NDArray[np.float64] = _apply(statistic, total)[0]
    return of_images


def _percentiles(
    of_draws: NDArray[np.float64], of_images: NDArray[np.float64], level: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    undefined = np.isnan(of_images) | (np.isnan(of_draws).mean(axis=0) > 1 - level)
    # Zeros stand in where the result is NaN anyway: nanquantile warns where all are NaN.
    ends = np.nanquantile(
        np.where(undefined, 0.0, of_draws), [(1 - level) / 2, (1 + level) / 2], axis=0
    )
    ends = np.where(undefined, np.nan, ends)
    return ends[0], ends[1]
