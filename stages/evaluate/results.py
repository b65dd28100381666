"""The metrics of a measurement: pure functions of its counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from stages.evaluate.measurement import Measurement, Picture
from stages.metrics import confusion
from stages.metrics.bootstrap import confidence_interval
from stages.metrics.boundary import TOLERANCES, boundary_f_score
from stages.metrics.calibration import expected_calibration_error, reliability_curve
from stages.metrics.comparison import statistics
from stages.metrics.results import COUNT_COLUMNS, FEW_IMAGES, Extreme, Results, confusion_of
from stages.records.classes import BACKGROUND, CLASS_NAMES
from stages.records.manifest import Manifest

# Share of the image that is pet or border, up to which a pet counts as such.
PET_SIZES = {"small": 0.25, "medium": 0.5, "large": 1.0}


def image_table(measurement: Measurement, manifest: Manifest) -> pd.DataFrame:
    """A row for each image: the contents of metrics/<network>.images.csv, unrounded.

    Columns as in `read_images`; names that the dataset does not have are empty.
    """
    matrices = measurement.matrices
    columns = {
        "file_name": measurement.file_names,
        "species": _names(measurement.species, manifest.species_names),
        "breed": _names(measurement.labels, manifest.label_names),
        "pet_share": 1 - matrices[:, BACKGROUND].sum(axis=-1) / matrices.sum(axis=(1, 2)),
        "loss": measurement.losses,
        "accuracy": confusion.pixel_accuracy(matrices),
        "mean_iou": confusion.mean_iou(matrices),
    }
    return pd.DataFrame(columns | _counts(matrices, measurement.boundaries))


def results(measurement: Measurement, manifest: Manifest, seed: int) -> Results:
    """All metrics of one network and of the baseline.

    Args:
        measurement: Counts of at least one image.
        manifest: The names of breeds and species.
        seed: Of the bootstrap.
    """
    images = image_table(measurement, manifest)
    baseline = pd.DataFrame(_counts(measurement.baseline_matrices, measurement.baseline_boundaries))
    reliability = measurement.reliability.sum(axis=0)
    confidence, accuracy = reliability_curve(reliability)
    intervals = {
        path: confidence_interval(per_image, statistic, seed=seed)
        for path, (per_image, statistic) in statistics(images).items()
    }
    intervals["calibration_error",] = confidence_interval(
        measurement.reliability, expected_calibration_error, seed=seed
    )
    return Results.model_validate(
        {
            "images": len(images),
            **_metrics(images),
            "calibration_error": expected_calibration_error(reliability),
            "intervals": _nested(intervals),
            "confusion_matrix": measurement.matrices.sum(axis=0).tolist(),
            "reliability": {
                "confidence": confidence.tolist(),
                "accuracy": accuracy.tolist(),
                "pixels": reliability[:, 0].tolist(),
            },
            "slices": _slices(images, measurement, manifest, seed),
            "baseline": _metrics(baseline),
            "worst": _extremes(measurement.worst, images),
            "best": _extremes(measurement.best, images),
        }
    )


def _counts(matrices: npt.NDArray[np.int64], boundaries: npt.NDArray[np.int64]) -> dict[str, Any]:
    names = [f"boundary_f_{tolerance}px" for tolerance in TOLERANCES]
    scores = dict(zip(names, boundary_f_score(boundaries).T, strict=True))
    return scores | dict(zip(COUNT_COLUMNS, matrices.reshape(len(matrices), -1).T, strict=True))


def _metrics(table: pd.DataFrame) -> dict[str, Any]:
    found = {path: metric(sums.sum(axis=0)) for path, (sums, metric) in statistics(table).items()}
    total = confusion_of(table).sum(axis=0)
    for metric in (confusion.dice, confusion.precision, confusion.recall):
        for name, value in zip(CLASS_NAMES, metric(total), strict=True):
            found[metric.__name__, name] = value
    return _nested(found)


def _nested(found: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (name, *key), value in found.items():
        if key:
            nested.setdefault(name, {})[key[0]] = value
        else:
            nested[name] = value
    return nested


def _slices(
    images: pd.DataFrame, measurement: Measurement, manifest: Manifest, seed: int
) -> dict[str, dict[str, Any]]:
    limits = list(PET_SIZES.values())[:-1]
    groups = {
        "species": (measurement.species, manifest.species_names),
        "breed": (measurement.labels, manifest.label_names),
        "pet_size": (np.digitize(images["pet_share"], limits, right=True), list(PET_SIZES)),
    }
    slices: dict[str, dict[str, Any]] = {group: {} for group in groups}
    for group, (members, names) in groups.items():
        for index, name in enumerate(names):
            chosen = members == index
            if chosen.any():
                matrices = measurement.matrices[chosen]
                of_baseline = measurement.baseline_matrices[chosen].sum(axis=0)
                shares = images["pet_share"][chosen]
                slices[group][name] = {
                    "images": len(matrices),
                    "few": len(matrices) < FEW_IMAGES,
                    "accuracy": confusion.pixel_accuracy(matrices.sum(axis=0)),
                    "mean_iou": confusion.mean_iou(matrices.sum(axis=0)),
                    "interval": confidence_interval(matrices, confusion.mean_iou, seed=seed),
                    "baseline_accuracy": confusion.pixel_accuracy(of_baseline),
                    "baseline_mean_iou": confusion.mean_iou(of_baseline),
                    "pet_share": (shares.min(), shares.max()),
                }
    return slices


def _extremes(pictures: Sequence[Picture], images: pd.DataFrame) -> list[Extreme]:
    rows = images.iloc[[picture.position for picture in pictures]]
    return [Extreme(**row) for row in rows[list(Extreme.model_fields)].to_dict("records")]


def _names(indices: npt.NDArray[np.int64], names: Sequence[str]) -> list[str]:
    return [names[index] if 0 <= index < len(names) else "" for index in indices]
