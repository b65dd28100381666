"""The metrics of a table of test images, and paired differences between two such tables."""

from typing import Any

import numpy.typing as npt
import pandas as pd

from stages.metrics import confusion
from stages.metrics.bootstrap import Statistic, mean_of_terms, mean_terms, paired_difference
from stages.metrics.results import BOUNDARY_COLUMNS, confusion_of
from stages.records.classes import CLASS_NAMES

Path = tuple[str, ...]  # a metric's place in `Results`, such as ("iou", "pet")
Difference = tuple[float, ...]  # value, low and high end; NaN where undefined


def differences(first: pd.DataFrame, second: pd.DataFrame, seed: int) -> dict[Path, Difference]:
    """First minus second, with paired 95 % intervals.

    Both are from `read_images`, of the same test images in the same order.
    """
    others = statistics(second)
    return {
        path: tuple(map(float, paired_difference(sums, others[path][0], statistic, seed=seed)))
        for path, (sums, statistic) in statistics(first).items()
    }


def statistics(table: pd.DataFrame) -> dict[Path, tuple[npt.NDArray[Any], Statistic]]:
    """What to sum over images, `[image, ...]`, and the metric of such sums."""

    def iou(index: int) -> Statistic:
        return lambda sums: confusion.class_metrics(sums)["iou"][..., index]

    matrices = confusion_of(table)
    of_counts: dict[Path, Statistic] = {
        ("accuracy",): confusion.pixel_accuracy,
        ("mean_iou",): confusion.mean_iou,
        ("pet_iou", "border_as_pet"): confusion.pet_iou_border_as_pet,
        ("pet_iou", "border_left_out"): confusion.pet_iou_border_left_out,
    }
    for index, name in enumerate(CLASS_NAMES):
        of_counts["iou", name] = iou(index)
    means: dict[Path, npt.ArrayLike] = {("mean_image_iou",): confusion.mean_iou(matrices)}
    for column in BOUNDARY_COLUMNS:
        means["boundary_f", column.removeprefix("boundary_f_")] = table[column]
    if "loss" in table:  # the baseline has none
        means["loss",] = table["loss"]
    return {path: (matrices, statistic) for path, statistic in of_counts.items()} | {
        path: (mean_terms(values), mean_of_terms) for path, values in means.items()
    }
