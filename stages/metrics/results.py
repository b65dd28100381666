"""What `evaluate` writes of a network: one schema for its writer and its readers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat

from stages.metrics.boundary import TOLERANCES
from stages.records.classes import CLASS_NAMES
from stages.stage import StageError, replacing

# Below this number of test images an interval is not to be trusted.
FEW_IMAGES = 10
# Columns of <network>.images.csv: pixels by true and predicted class, and scores.
COUNT_COLUMNS = [f"{true}_as_{found}" for true in CLASS_NAMES for found in CLASS_NAMES]
BOUNDARY_COLUMNS = [f"boundary_f_{tolerance}px" for tolerance in TOLERANCES]
# The metrics that are compared across runs.
HEADLINES = ("accuracy", "mean_iou", "pet_iou", "boundary_f", "calibration_error", "loss")


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 6)


# Rounded to six places; None where it is undefined (NaN).
Metric = Annotated[float | None, AfterValidator(_rounded)]
Defined = Annotated[FiniteFloat, AfterValidator(_rounded)]
Interval = tuple[Metric, Metric]  # 95 %, low and high end


class _Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metrics(_Schema):
    """What networks and the baseline without learning have; dictionaries are by class."""

    accuracy: Defined
    mean_iou: Defined
    mean_image_iou: Defined
    iou: dict[str, Metric]
    dice: dict[str, Metric]
    precision: dict[str, Metric]
    recall: dict[str, Metric]
    pet_iou: dict[str, Metric]  # border_as_pet, border_left_out
    boundary_f: dict[str, Metric]  # 1px, 2px, 3px


class Intervals(_Schema):
    """95 % intervals by bootstrap over images."""

    accuracy: Interval
    mean_iou: Interval
    mean_image_iou: Interval
    iou: dict[str, Interval]
    pet_iou: dict[str, Interval]
    boundary_f: dict[str, Interval]
    calibration_error: Interval
    loss: Interval


class Reliability(_Schema):
    """Mean confidence, accuracy and pixels of each bin of confidence, from 0 to 1."""

    confidence: list[Metric]
    accuracy: list[Metric]
    pixels: list[int]


class Slice(_Schema):
    """Some of the test images."""

    images: int
    few: bool  # fewer than FEW_IMAGES
    accuracy: Defined
    mean_iou: Defined
    interval: Interval  # of mean_iou
    baseline_accuracy: Defined
    baseline_mean_iou: Defined
    pet_share: tuple[Defined, Defined]  # least and greatest share of an image that is pet or border


class Extreme(_Schema, extra="ignore"):
    """One of the images with the lowest or the highest mean IoU, of a row of read_images."""

    file_name: str
    breed: str
    mean_iou: Defined


class Results(Metrics):
    """The contents of metrics/<network>.json."""

    images: int
    loss: Defined  # cross-entropy, nats
    calibration_error: Defined
    intervals: Intervals
    confusion_matrix: list[list[int]]  # [class (true)][class (predicted)], pixels
    reliability: Reliability
    slices: dict[str, dict[str, Slice]]  # species, breed, pet_size
    baseline: Metrics
    worst: list[Extreme]  # the rows of <network>.worst.png from top to bottom
    best: list[Extreme]

    @classmethod
    def read(cls, path: Path, stage: str) -> "Results":
        """Read what `stage`, such as evaluate@unet, wrote; StageError as by `reading`."""
        with reading(path, stage):
            return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        """Write the file; the same results give the same bytes."""
        with replacing(path) as new:
            new.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def headlines(self) -> dict[str, tuple[float | None, Interval]]:
        """HEADLINES, each with its interval."""
        values, intervals = (
            vars(part)
            | {"pet_iou": part.pet_iou["border_as_pet"], "boundary_f": part.boundary_f["2px"]}
            for part in (self, self.intervals)
        )
        return {name: (values[name], intervals[name]) for name in HEADLINES}


def read_images(path: Path, stage: str) -> pd.DataFrame:
    """Read metrics/<network>.images.csv: a row for each test image, in the split's order.

    Columns: file_name, species, breed, pet_share, loss, accuracy, mean_iou, BOUNDARY_COLUMNS (NaN
    where undefined) and COUNT_COLUMNS. Raises StageError as by `reading`.
    """
    types: dict[str, type] = dict.fromkeys(["file_name", "species", "breed"], str)
    types |= dict.fromkeys(["loss", *BOUNDARY_COLUMNS], float) | dict.fromkeys(COUNT_COLUMNS, int)
    undefined = {name: [""] for name in BOUNDARY_COLUMNS}
    with reading(path, stage):
        table = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=undefined)
        return table.astype(types)  # a KeyError for a column that is missing


def confusion_of(table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The confusion matrices of a table of images: [image, class (true), class (predicted)]."""
    return table[COUNT_COLUMNS].to_numpy().reshape(-1, len(CLASS_NAMES), len(CLASS_NAMES))


@contextlib.contextmanager
def reading(path: Path, stage: str) -> Iterator[None]:
    """Raise StageError for an output of `stage` that the block finds missing or damaged."""
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        message = f"{path} is missing or damaged; `dvc repro -f {stage}` makes it again"
        raise StageError(message) from error
