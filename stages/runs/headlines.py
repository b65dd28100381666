"""The few of all figures of metrics/<network>.json that are compared across runs."""

from collections.abc import Mapping
from typing import Any

HEADLINES = ("accuracy", "mean_iou", "pet_iou", "boundary_f", "calibration_error", "loss")


def headlines(figures: Mapping[str, Any]) -> dict[str, float]:
    """The single figures that the MLflow UI compares; those that are defined."""
    return {name: value for name, value in _headlines(figures).items() if value is not None}


def headline_intervals(figures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The ends of their 95 % intervals, by `low` and `high`; those that are defined."""
    intervals = _headlines(figures["intervals"])
    return {
        end: {name: ends[at] for name, ends in intervals.items() if ends[at] is not None}
        for at, end in enumerate(("low", "high"))
    }


def _headlines(figures: Mapping[str, Any]) -> dict[str, Any]:
    flat = {
        **figures,
        "pet_iou": figures["pet_iou"]["border_as_pet"],
        "boundary_f": figures["boundary_f"]["2px"],
    }
    return {name: flat[name] for name in HEADLINES}
