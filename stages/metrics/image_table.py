"""The test pictures one by one, as `evaluate` writes them: what paired comparisons are made of."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


class ImageTable(NamedTuple):
    """The contents of metrics/<network>.images.csv, in the order of the test split."""

    file_names: list[str]
    species: list[str]
    breeds: list[str]
    losses: npt.NDArray[np.float64]  # [image]
    boundary_f: npt.NDArray[np.float64]  # [image, tolerance]; NaN where undefined
    matrices: Counts  # [image, class (true), class (predicted)], pixels


def read_image_table(path: Path, class_names: Sequence[str]) -> ImageTable:
    """Reads a metrics/<network>.images.csv.

    Args:
        path: The file.
        class_names: The classes, in the manifest's order.

    Raises:
        OSError: The file cannot be read.
        KeyError: A column is missing.
        TypeError, ValueError: A row is cut off, or a cell is not a number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = [[int(row[f"{a}_as_{b}"]) for a in class_names for b in class_names] for row in rows]
    tolerances = [key for key in rows[0] if key.startswith("boundary_f_")] if rows else []
    classes = len(class_names)
    return ImageTable(
        file_names=[row["file_name"] for row in rows],
        species=[row["species"] for row in rows],
        breeds=[row["breed"] for row in rows],
        losses=np.array([float(row["loss"]) for row in rows]),
        boundary_f=np.array([[float(row[k] or "nan") for k in tolerances] for row in rows]),
        matrices=np.array(counts, np.int64).reshape(-1, classes, classes),
    )
