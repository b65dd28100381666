"""What the report says in numbers: the networks against each other and against the baseline.

Pure functions of what `evaluate` wrote. Differences are paired: both networks are measured on the
same draws of test images, so an image that is hard for both does not blur the difference.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.metrics import confusion
from stages.metrics.bootstrap import (
    confidence_interval,
    mean_of_terms,
    mean_terms,
    paired_difference,
)
from stages.metrics.image_table import Counts, ImageTable
from stages.stage import StageError

# Below this number of test images an interval is not to be trusted.
FEW_IMAGES = 10

Interval = tuple[float | None, float | None]
# Where a figure is found in `Figures`: a key, or two.
Path = tuple[str, ...]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Figures(_Record):
    """The figures that networks and the baseline have; None where undefined."""

    accuracy: float
    mean_iou: float
    mean_image_iou: float
    iou: dict[str, float | None]
    dice: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    pet_iou: dict[str, float | None]
    boundary_f: dict[str, float | None]


class Intervals(_Record):
    """The ends of the 95 % intervals."""

    accuracy: Interval
    mean_iou: Interval
    mean_image_iou: Interval
    iou: dict[str, Interval]
    pet_iou: dict[str, Interval]
    boundary_f: dict[str, Interval]
    calibration_error: Interval
    loss: Interval


class Reliability(_Record):
    """For each bin of confidence: the mean confidence, the accuracy and the number of pixels."""

    confidence: list[float | None]
    accuracy: list[float | None]
    pixels: list[int]


class Slice(_Record):
    """The figures of some of the test images."""

    images: int
    few: bool
    accuracy: float
    mean_iou: float
    baseline_accuracy: float
    baseline_mean_iou: float


class Results(Figures):
    """The contents of metrics/<network>.json."""

    images: int
    loss: float
    calibration_error: float
    intervals: Intervals
    confusion_matrix: list[list[int]]
    reliability: Reliability
    slices: dict[str, dict[str, Slice]]
    baseline: Figures


class Difference(NamedTuple):
    """A paired difference and its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval is on one side of zero; false if there is no interval."""
        return self.low > 0 or self.high < 0


class SliceRow(NamedTuple):
    """Some of the test images: mean IoU and the ends of its interval, network by network."""

    name: str
    images: int
    few: bool
    scores: dict[str, tuple[float, float, float]]
    baseline: float  # mean IoU
    # The least and the greatest share of the picture that is pet or border.
    pet_shares: tuple[float, float]


def read_results(path: pathlib.Path, stage: str) -> Results:
    """Reads metrics/<network>.json.

    Args:
        path: The file.
        stage: What wrote it, for the message.

    Raises:
        StageError: The file is missing or not what `evaluate` writes.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StageError(
            f"{path} is missing or damaged; `dvc repro -f {stage}` makes it anew"
        ) from error


def figure(figures: Figures | Intervals, path: Path) -> Any:
    """The figure at a path, or None where there is none: the baseline has no loss."""
    value: Any = getattr(figures, path[0], None)
    for key in path[1:]:
        value = None if value is None else value.get(key)
    return value


def ranking(results: Mapping[str, Results]) -> list[str]:
    """The networks by mean IoU, the best first; among equals in the order given."""
    return sorted(results, key=lambda name: -results[name].mean_iou)


def differences(
    first: ImageTable, second: ImageTable, class_names: Sequence[str], tolerances: Sequence[str],
    seed: int,
) -> dict[Path, Difference]:  # fmt: skip
    """First less second, for each figure that can be had from counts of single images.

    Args:
        first: Of the one network.
        second: Of the other, the same images in the same order.
        class_names: The classes.
        tolerances: The names of `boundary_f`'s columns.
        seed: Of the bootstrap.
    """
    paths: list[Path] = [("accuracy",), ("mean_iou",)]
    paths += [("pet_iou", "border_as_pet"), ("pet_iou", "border_left_out")]
    paths += [("iou", name) for name in class_names]
    ends = paired_difference(first.matrices, second.matrices, _of_counts, seed=seed)
    means: list[Path] = [("mean_image_iou",), ("loss",)]
    means += [("boundary_f", name) for name in tolerances]
    ends_of_means = paired_difference(
        _mean_terms(first), _mean_terms(second), mean_of_terms, seed=seed
    )
    found = {}
    for names, (value, low, high) in ((paths, ends), (means, ends_of_means)):
        for index, path in enumerate(names):
            found[path] = Difference(float(value[index]), float(low[index]), float(high[index]))
    return found


def pet_shares(matrices: Counts) -> npt.NDArray[np.float64]:
    """Share of each picture that is truly pet or border: float64 [image]."""
    pixels = matrices.sum(axis=-1)
    shares: npt.NDArray[np.float64] = 1 - pixels[:, confusion.BACKGROUND] / pixels.sum(axis=-1)
    return shares


def extremes(table: ImageTable, number: int) -> dict[str, list[int]]:
    """The places of the worst and of the best images by mean IoU, the most extreme one first."""
    scores = confusion.mean_iou(table.matrices)
    return {
        "worst": list(map(int, np.argsort(scores, kind="stable")[:number])),
        "best": list(map(int, np.argsort(-scores, kind="stable")[:number])),
    }


def slice_rows(
    results: Mapping[str, Results], tables: Mapping[str, ImageTable], seed: int
) -> dict[str, list[SliceRow]]:
    """Mean IoU of each group of images, with intervals.

    Species and sizes keep their order; breeds come by their mean IoU, averaged over the networks,
    the highest first.

    Args:
        results: By network.
        tables: By network, of the same images.
        seed: Of the bootstrap.

    Raises:
        ValueError: A slice has not as many images as the table has of it.
    """
    groups: dict[str, list[SliceRow]] = {}
    some_results = next(iter(results.values()))
    for group, slices in some_results.slices.items():
        members = _members(group, slices, next(iter(tables.values())))
        rows = []
        for name, part in slices.items():
            chosen = members[name]
            if len(chosen) != part.images:
                raise ValueError(f"{group} {name}: {part.images} images, but {len(chosen)} rows")
            shares = pet_shares(next(iter(tables.values())).matrices[chosen])
            scores = {}
            for network, table in tables.items():
                low, high = confidence_interval(
                    table.matrices[chosen], confusion.mean_iou, seed=seed
                )
                value = results[network].slices[group][name].mean_iou
                scores[network] = (value, float(low), float(high))
            rows.append(
                SliceRow(
                    name,
                    part.images,
                    part.few,
                    scores,
                    part.baseline_mean_iou,
                    (float(shares.min()), float(shares.max())),
                )
            )
        if group == "breed":
            rows.sort(key=lambda row: -sum(value for value, _, _ in row.scores.values()))
        if rows:
            groups[group] = rows
    return groups


def _members(
    group: str, slices: Mapping[str, Slice], table: ImageTable
) -> dict[str, npt.NDArray[np.int64]]:
    if group == "pet_size":
        # Sizes are ranges of the pet's share, the smallest first: their counts tell who is in them.
        order = np.argsort(pet_shares(table.matrices), kind="stable")
        ends = np.cumsum([part.images for part in slices.values()])
        return dict(zip(slices, np.split(order, ends)[: len(slices)], strict=True))
    column = np.array(table.species if group == "species" else table.breeds)
    return {name: np.flatnonzero(column == name) for name in slices}


def _of_counts(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    statistics: list[Callable] = [
        confusion.pixel_accuracy,
        confusion.mean_iou,
        confusion.pet_iou_border_as_pet,
        confusion.pet_iou_border_left_out,
    ]
    columns = np.stack([statistic(sums) for statistic in statistics], axis=-1)
    return np.concatenate([columns, confusion.iou(sums)], axis=-1)


def _mean_terms(table: ImageTable) -> npt.NDArray[np.float64]:
    columns = [confusion.mean_iou(table.matrices), table.losses, *table.boundary_f.T]
    return mean_terms(np.stack(columns, axis=-1))
