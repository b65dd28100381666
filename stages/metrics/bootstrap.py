"""Confidence intervals by the percentile bootstrap over images.

Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. Images are drawn, since
the pixels of one image are not independent. A statistic is a function of *sums over images*, such
as the mean IoU of a summed confusion matrix or, by `mean_terms`, a mean over images.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000  # Efron & Tibshirani ask for 1,000 or more where percentiles are read off
LEVEL = 0.95

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # from sums to values, `[draw, ...]` to `[draw, ...]`


def confidence_interval(
    per_image: ArrayLike, statistic: Statistic, *, seed: int
) -> tuple[Array, Array]:
    """Low and high end of the 95 % interval of a statistic of sums of `per_image`, `[image, ...]`.

    Draws in which the statistic is undefined (NaN) are left out, up to 5 % of them; beyond that
    the interval is NaN, as it is where the statistic of all images is.
    """
    return _percentiles(_values(per_image, statistic, seed))


def paired_difference(
    first: ArrayLike, second: ArrayLike, statistic: Statistic, *, seed: int
) -> tuple[Array, Array, Array]:
    """First minus second, `[image, ...]` of the same images, and the ends of its interval.

    Both get the same draws: an image that is hard for both moves both alike, so that a difference
    may be clear although the two intervals overlap. Raises ValueError if the shapes differ.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"not the same images: {np.shape(first)} and {np.shape(second)}")
    values = _values(first, statistic, seed) - _values(second, statistic, seed)
    return values[0], *_percentiles(values)


def mean_terms(values: ArrayLike) -> Array:
    """Values, or NaN, `[image, ...]` as terms `[image, ..., 2]`: value and 1, or 0 and 0."""
    defined = ~np.isnan(values)
    return np.stack([np.where(defined, values, 0.0), defined], axis=-1)


def mean_of_terms(sums: Array) -> Array:
    """Mean over the images that have a value, from summed `mean_terms`; NaN where none has."""
    total, images = sums[..., 0], sums[..., 1]
    return np.divide(total, images, out=np.full(images.shape, np.nan), where=images > 0)


@functools.lru_cache(maxsize=1)
def _times_drawn(images: int, seed: int) -> Array:
    """How often each draw has each image, `[1 + DRAWS, image]`; the first has each once."""
    generator = np.random.default_rng(seed)
    times = np.ones((1 + DRAWS, images))
    for row in times[1:]:  # five times faster than multinomial()
        row[:] = np.bincount(generator.integers(images, size=images), minlength=images)
    return times


def _values(per_image: ArrayLike, statistic: Statistic, seed: int) -> Array:
    stack = np.asarray(per_image, np.float64)
    sums = _times_drawn(len(stack), seed) @ stack.reshape(len(stack), -1)
    return statistic(sums.reshape(-1, *stack.shape[1:]))


def _percentiles(values: Array) -> tuple[Array, Array]:
    undefined = np.isnan(values[0]) | (np.isnan(values[1:]).mean(axis=0) > 1 - LEVEL)
    draws = np.where(undefined, 0.0, values[1:])  # nanquantile warns where all are NaN
    ends = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = np.where(undefined, np.nan, ends)
    return low, high
