"""What the other stages wrote of each network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from stages.metrics.results import Results, read_images
from stages.records.classes import NETWORK_COLORS

Pixels = npt.NDArray[np.uint8]
Examples: TypeAlias = Mapping[str, Pixels]  # of EXAMPLES_FILE


@dataclass(frozen=True, eq=False)
class Network:
    """One network of params.yaml."""

    name: str
    color: str
    results: Results
    images: pd.DataFrame  # see read_images
    history: pd.DataFrame  # a row for each epoch
    exports: pd.DataFrame  # a row for each format, the Keras model first
    predictions: Pixels  # [example, height, width], classes
    worst: Pixels  # [image, height, 3 width, 3]: image, true mask and prediction side by side
    best: Pixels

    @property
    def title(self) -> str:
        """The network's name as papers write it."""
        return {"conv_deconv": "Conv-Deconv", "unet": "U-Net"}.get(self.name, self.name)

    @property
    def tested(self) -> str:
        """On how many images it was measured."""
        return f"{self.results.images:,} test image{'s' * (self.results.images != 1)}"

    @property
    def kept(self) -> pd.Series:
        """The epoch whose weights were kept: that with the lowest validation loss."""
        return self.history.loc[self.history["val_loss"].idxmin()]


Networks: TypeAlias = Sequence[Network]


def read_network(name: str, place: int, size: int) -> Network:
    """Read the network at a place of `networks` in params.yaml; StageError as by `reading`."""
    path, stage = Path("metrics", name), f"evaluate@{name}"
    results = Results.read(path.with_suffix(".json"), stage)
    kinds = ("examples", "worst", "best")
    masks, worst, best = (np.asarray(Image.open(f"{path}.{kind}.png")) for kind in kinds)
    return Network(
        name=name,
        color=NETWORK_COLORS[place % len(NETWORK_COLORS)],
        results=results,
        images=read_images(path.with_suffix(".images.csv"), stage),
        history=pd.read_csv(path.with_suffix(".history.csv")),
        exports=pd.read_csv(path.with_suffix(".exports.csv")),
        predictions=masks.reshape(-1, size, size),
        worst=worst.reshape(-1, size, 3 * size, 3),
        best=best.reshape(-1, size, 3 * size, 3),
    )


def metric(values: Any, path: tuple[str, ...]) -> Any:
    """The value of a schema at a path such as ("iou", "pet"); None where it has none."""
    value = getattr(values, path[0], None)
    return value if value is None or len(path) == 1 else value[path[1]]
