"""The figures of a measurement: pure functions of its counts."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.evaluate.measurement import Measurement
from stages.metrics import confusion
from stages.metrics.bootstrap import confidence_interval, mean_of_terms, mean_terms
from stages.metrics.boundary import TOLERANCES, boundary_f_score
from stages.metrics.calibration import expected_calibration_error, reliability_curve
from stages.records.manifest import Manifest
from stages.runs.headlines import headlines

# Slices with fewer images than this are marked: their figures say little.
FEW_IMAGES = 10
# Share of the picture that is pet or border, up to which a pet counts as such.
PET_SIZES = {"small": 0.25, "medium": 0.5, "large": 1.0}
# What `dvc exp show` has a column for; the rest is in the file.
SUMMARY = ("accuracy", "mean_iou", "boundary_f")

Statistic = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def results(measurement: Measurement, manifest: Manifest, seed: int) -> dict[str, Any]:
    """All figures of one network and of the baseline, as metrics/<network>.json has them.

    An undefined figure is null: the IoU of a class that is in no mask and in no prediction, which
    is left out of the means. Intervals are of 95 %, by bootstrap over images.

    Args:
        measurement: Counts of at least one image.
        manifest: The names of classes, breeds and species.
        seed: Of the bootstrap.
    """
    names = manifest.class_names
    figures = _figures(measurement.matrices, measurement.boundaries, names)
    figures["loss"] = float(measurement.losses.mean())
    counts = measurement.reliability.sum(axis=0)
    figures["calibration_error"] = float(expected_calibration_error(counts))
    curve = reliability_curve(counts)
    return _json(
        {
            "images": len(measurement.matrices),
            **figures,
            "intervals": _intervals(measurement, names, seed),
            "confusion_matrix": measurement.matrices.sum(axis=0),
            "reliability": {
                "confidence": curve.mean_confidence,
                "accuracy": curve.accuracy,
                "pixels": curve.pixels,
            },
            "slices": _slices(measurement, manifest),
            "baseline": _figures(
                measurement.baseline_matrices, measurement.baseline_boundaries, names
            ),
        }
    )


def summarized(figures: Mapping[str, Any]) -> dict[str, float]:
    """The few figures that `dvc exp show` compares; those that are defined."""
    return {name: value for name, value in headlines(figures).items() if name in SUMMARY}


def image_rows(measurement: Measurement, manifest: Manifest) -> list[dict[str, Any]]:
    """A row for each image: what it is, its figures, and its confusion matrix.

    Columns: file_name, species, breed, pet_share (pet and border), loss, accuracy, mean_iou,
    boundary_f_1px and so on, and `<true>_as_<predicted>` in pixels for each pair of classes.
    Undefined figures and names that the dataset does not have are empty.
    """
    matrices = measurement.matrices
    columns: dict[str, Any] = {
        "file_name": measurement.file_names,
        "species": _names(measurement.species, manifest.species_names),
        "breed": _names(measurement.labels, manifest.label_names),
        "pet_share": _pet_shares(matrices),
        "loss": measurement.losses,
        "accuracy": confusion.pixel_accuracy(matrices),
        "mean_iou": confusion.mean_iou(matrices),
    }
    f_scores = boundary_f_score(measurement.boundaries)
    for index, tolerance in enumerate(TOLERANCES):
        columns[f"boundary_f_{tolerance}px"] = f_scores[:, index]
    for true, true_name in enumerate(manifest.class_names):
        for predicted, predicted_name in enumerate(manifest.class_names):
            columns[f"{true_name}_as_{predicted_name}"] = matrices[:, true, predicted]
    return [
        {name: _cell(values[row]) for name, values in columns.items()}
        for row in range(len(matrices))
    ]


def _figures(
    matrices: npt.NDArray[np.int64], boundaries: npt.NDArray[np.int64], names: Sequence[str]
) -> dict[str, Any]:
    total = matrices.sum(axis=0)
    terms = mean_terms(boundary_f_score(boundaries)).sum(axis=0)
    return {
        "accuracy": confusion.pixel_accuracy(total),
        "mean_iou": confusion.mean_iou(total),
        "mean_image_iou": confusion.mean_image_iou(matrices),
        "iou": dict(zip(names, confusion.iou(total), strict=True)),
        "dice": dict(zip(names, confusion.dice(total), strict=True)),
        "precision": dict(zip(names, confusion.precision(total), strict=True)),
        "recall": dict(zip(names, confusion.recall(total), strict=True)),
        "pet_iou": {
            "border_as_pet": confusion.pet_iou_border_as_pet(total),
            "border_left_out": confusion.pet_iou_border_left_out(total),
        },
        "boundary_f": {
            f"{tolerance}px": value
            for tolerance, value in zip(TOLERANCES, mean_of_terms(terms), strict=True)
        },
    }


def _intervals(measurement: Measurement, names: Sequence[str], seed: int) -> dict[str, Any]:
    def of_sum(statistic: Statistic, per_image: npt.NDArray) -> tuple[Any, Any]:
        return confidence_interval(per_image, statistic, seed=seed)

    matrices = measurement.matrices
    iou_low, iou_high = of_sum(confusion.iou, matrices)
    boundary_low, boundary_high = of_sum(
        mean_of_terms, mean_terms(boundary_f_score(measurement.boundaries))
    )
    return {
        "accuracy": of_sum(confusion.pixel_accuracy, matrices),
        "mean_iou": of_sum(confusion.mean_iou, matrices),
        "mean_image_iou": of_sum(mean_of_terms, mean_terms(confusion.mean_iou(matrices))),
        "iou": {name: (iou_low[i], iou_high[i]) for i, name in enumerate(names)},
        "pet_iou": {
            "border_as_pet": of_sum(confusion.pet_iou_border_as_pet, matrices),
            "border_left_out": of_sum(confusion.pet_iou_border_left_out, matrices),
        },
        "boundary_f": {
            f"{tolerance}px": (boundary_low[i], boundary_high[i])
            for i, tolerance in enumerate(TOLERANCES)
        },
        "calibration_error": of_sum(expected_calibration_error, measurement.reliability),
        "loss": of_sum(mean_of_terms, mean_terms(measurement.losses)),
    }


def _slices(measurement: Measurement, manifest: Manifest) -> dict[str, Any]:
    shares = _pet_shares(measurement.matrices)
    limits = list(PET_SIZES.values())[:-1]
    sizes = np.digitize(shares, limits, right=True)
    groups = {
        "species": (measurement.species, manifest.species_names),
        "breed": (measurement.labels, manifest.label_names),
        "pet_size": (sizes, list(PET_SIZES)),
    }
    slices: dict[str, Any] = {}
    for group, (members, names) in groups.items():
        slices[group] = {}
        for index, name in enumerate(names):
            chosen = members == index
            images = int(chosen.sum())
            if images:
                total = measurement.matrices[chosen].sum(axis=0)
                of_baseline = measurement.baseline_matrices[chosen].sum(axis=0)
                slices[group][name] = {
                    "images": images,
                    "few": images < FEW_IMAGES,
                    "accuracy": confusion.pixel_accuracy(total),
                    "mean_iou": confusion.mean_iou(total),
                    "baseline_accuracy": confusion.pixel_accuracy(of_baseline),
                    "baseline_mean_iou": confusion.mean_iou(of_baseline),
                }
    return slices


def _pet_shares(matrices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of each picture that is truly pet or border."""
    pixels = matrices.sum(axis=-1)
    return 1 - pixels[:, confusion.BACKGROUND] / pixels.sum(axis=-1)


def _names(indices: npt.NDArray[np.int64], names: Sequence[str]) -> list[str]:
    return [names[index] if 0 <= index < len(names) else "" for index in indices]


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def _json(value: Any) -> Any:
    """Numbers as JSON has them, rounded to six places, and null for what is undefined."""
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, list | tuple | np.ndarray):
        return [_json(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else round(float(value), 6)
    return value.item() if isinstance(value, np.generic) else value
