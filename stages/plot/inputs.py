"""What the other stages wrote of each network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from stages.metrics.results import Results, read_images, read_table, reading
from stages.records.classes import network_color
from stages.stage import StageError

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


def read_networks(names: Sequence[str], size: int, examples: int) -> list[Network]:
    """Reads the networks; their images are `size` x `size` pixels.

    Raises:
        StageError: A file is missing or damaged, or networks were measured on different images.
    """
    networks = [_read(name, network_color(i), size, examples) for i, name in enumerate(names)]
    for name, network in zip(names, networks, strict=True):
        if not network.images["file_name"].equals(networks[0].images["file_name"]):
            raise StageError(
                f"metrics/{names[0]}.images.csv and metrics/{name}.images.csv are of different test"
                f" images; `dvc repro -f evaluate@{names[0]} evaluate@{name}` makes both again"
            )
    return networks


def metric(values: Any, path: tuple[str, ...]) -> Any:
    """The value of a schema at a path such as ("iou", "pet"); None where it has none."""
    value = getattr(values, path[0], None)
    return value if value is None or len(path) == 1 else value[path[1]]


def _read(name: str, color: str, size: int, examples: int) -> Network:
    path, stage = Path("metrics", name), f"evaluate@{name}"
    return Network(
        name=name,
        color=color,
        results=Results.read(path.with_suffix(".json"), stage),
        images=read_images(path.with_suffix(".images.csv"), stage),
        history=read_table(path.with_suffix(".history.csv"), f"train@{name}"),
        exports=read_table(path.with_suffix(".exports.csv"), f"export@{name}"),
        predictions=_pixels(path.with_suffix(".examples.png"), stage, (examples, size, size)),
        worst=_pixels(path.with_suffix(".worst.png"), stage, (-1, size, 3 * size, 3)),
        best=_pixels(path.with_suffix(".best.png"), stage, (-1, size, 3 * size, 3)),
    )


def _pixels(path: Path, stage: str, shape: tuple[int, ...]) -> Pixels:
    with reading(path, stage), Image.open(path) as image:
        return np.asarray(image).reshape(shape)
