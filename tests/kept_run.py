"""What takes a training's figures where MLflow has no part in what is tried."""

from collections.abc import Mapping
from typing import Any


class KeptRun:
    """Stands for the MLflow run: keeps what it is given."""

    run_id = "the run"

    def __init__(self) -> None:
        """Starts without epochs."""
        self.epochs: list[dict[str, Any]] = []

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Keeps an epoch."""
        rates = {"seconds": seconds, "images_per_second": images_per_second}
        self.epochs.append({**row, **rates})
