"""The metrics of a measurement: pure functions of its counts."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.evaluate.measurement import Measurement
from stages.metrics import confusion
from stages.metrics.bootstrap import confidence_interval
from stages.metrics.calibration import expected_calibration_error, reliability_curve
from stages.metrics.comparison import statistics
from stages.metrics.results import FEW_IMAGES, Reliability, Results, confusion_of
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest

# Share of the image that is pet or border, up to which a pet counts as such.
PET_SIZES = {"small": 0.25, "medium": 0.5, "large": 1.0}


def results(measurement: Measurement, manifest: Manifest, seed: int) -> Results:
    """All metrics of one network and of the baseline; `seed` is that of the bootstrap."""
    images, baseline, per_image, worst, best = measurement
    reliability = per_image.sum(axis=0)
    curve = [*reliability_curve(reliability), reliability[:, 0]]
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
            "reliability": dict(zip(Reliability.model_fields, map(list, curve), strict=True)),
            "slices": _slices(images, baseline, manifest, seed),
            "baseline": _metrics(baseline),
            "worst": worst,
            "best": best,
        }
    )


def _metrics(table: pd.DataFrame) -> dict[str, Any]:
    found = {path: metric(sums.sum(axis=0)) for path, (sums, metric) in statistics(table).items()}
    for name, values in confusion.class_metrics(confusion_of(table).sum(axis=0)).items():
        found |= {(name, key): value for key, value in zip(CLASS_NAMES, values, strict=True)}
    return _nested(found)


def _nested(found: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (*group, name), value in found.items():
        (nested.setdefault(group[0], {}) if group else nested)[name] = value
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
