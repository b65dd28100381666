"""A stand-in for the MLflow run in tests of trainings."""

from collections.abc import Mapping
from typing import Any


class KeptRun:
    """Keeps the metrics of each epoch."""

    run_id = "the run"

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        self.epochs.append({**row, "seconds": seconds, "images_per_second": images_per_second})
