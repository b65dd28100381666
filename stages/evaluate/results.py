"""The metrics of a measurement: pure functions of its counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from stages.evaluate.measurement import Measurement, Picture
from stages.metrics import confusion
from stages.metrics.bootstrap import confidence_interval
from stages.metrics.calibration import expected_calibration_error, reliability_curve
from stages.metrics.comparison import statistics
from stages.metrics.results import FEW_IMAGES, Extreme, Results, confusion_of
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest

# Share of the image that is pet or border, up to which a pet counts as such.
PET_SIZES = {"small": 0.25, "medium": 0.5, "large": 1.0}


def results(measurement: Measurement, manifest: Manifest, seed: int) -> Results:
    """All metrics of one network and of the baseline.

    Args:
        measurement: Of at least one image.
        manifest: The names of breeds and species, in the order of the slices.
        seed: Of the bootstrap.
    """
    images, baseline, per_image = measurement[:3]
    reliability = per_image.sum(axis=0)
    confidence, accuracy = reliability_curve(reliability)
    of_sums = statistics(images)
    of_sums["calibration_error",] = (per_image, expected_calibration_error)
    intervals = {path: confidence_interval(*of_sums[path], seed=seed) for path in of_sums}
    return Results.model_validate(
        {
            "images": len(images),
            **_metrics(images),
            "calibration_error": expected_calibration_error(reliability),
            "intervals": _nested(intervals),
            "confusion_matrix": confusion_of(images).sum(axis=0).tolist(),
            "reliability": {
                "confidence": confidence.tolist(),
                "accuracy": accuracy.tolist(),
                "pixels": reliability[:, 0].tolist(),
            },
            "slices": _slices(images, baseline, manifest, seed),
            "baseline": _metrics(baseline),
            "worst": _extremes(measurement.worst, images),
            "best": _extremes(measurement.best, images),
        }
    )


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
    images: pd.DataFrame, baseline: pd.DataFrame, manifest: Manifest, seed: int
) -> dict[str, dict[str, Any]]:
    sizes = pd.cut(images["pet_share"], [-1, *PET_SIZES.values()], labels=list(PET_SIZES))
    groups = {
        "species": (images["species"], manifest.species_names),
        "breed": (images["breed"], manifest.label_names),
        "pet_size": (sizes, list(PET_SIZES)),
    }
    return {
        group: {
            name: _slice(images[column == name], baseline[column == name], seed)
            for name in names
            if (column == name).any()
        }
        for group, (column, names) in groups.items()
    }


def _slice(images: pd.DataFrame, baseline: pd.DataFrame, seed: int) -> dict[str, Any]:
    matrices = confusion_of(images)
    total, of_baseline = matrices.sum(axis=0), confusion_of(baseline).sum(axis=0)
    return {
        "images": len(images),
        "few": len(images) < FEW_IMAGES,
        "accuracy": confusion.pixel_accuracy(total),
        "mean_iou": confusion.mean_iou(total),
        "interval": confidence_interval(matrices, confusion.mean_iou, seed=seed),
        "baseline_accuracy": confusion.pixel_accuracy(of_baseline),
        "baseline_mean_iou": confusion.mean_iou(of_baseline),
        "pet_share": (images["pet_share"].min(), images["pet_share"].max()),
    }


def _extremes(pictures: Sequence[Picture], images: pd.DataFrame) -> list[Extreme]:
    rows = images.iloc[[picture.position for picture in pictures]]
    return [Extreme(**row) for row in rows[list(Extreme.model_fields)].to_dict("records")]
