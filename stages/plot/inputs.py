"""What the other stages wrote of each network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from stages.metrics.results import Results, damaged, read_images
from stages.params import Params
from stages.records.classes import network_color
from stages.records.manifest import Manifest
from stages.stage import StageError

METRICS_FOLDER = Path("metrics")
HISTORY_COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_mean_iou"]
EXPORT_COLUMNS = ["images", "bytes", "agreement", "mean_iou"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Network:
    """One network of params.yaml."""

    name: str
    color: str
    results: Results
    images: pd.DataFrame  # a row for each test image, see read_images
    history: pd.DataFrame  # a row for each epoch
    exports: pd.DataFrame  # a row for each format, the Keras model first
    predictions: Pixels  # [example, height, width], classes
    worst: Pixels  # [image, height, 3 width, 3]: image, true mask and prediction side by side
    best: Pixels
    encoder_weights: str

    @property
    def title(self) -> str:
        """The network's name as papers write it."""
        return {"conv_deconv": "Conv-Deconv", "unet": "U-Net"}.get(self.name, self.name)

    @property
    def kept(self) -> pd.Series:
        """The epoch whose weights were kept, that with the lowest validation loss."""
        return self.history.loc[self.history["val_loss"].idxmin()]


def read_networks(params: Params, manifest: Manifest, examples: int) -> list[Network]:
    """Reads all networks, in the order of params.yaml.

    Args:
        params: The parameters.
        manifest: Of the records.
        examples: How many test images have a predicted mask in <network>.examples.png.

    Raises:
        StageError: A file is missing or damaged, or networks were measured on different images.
    """
    networks = [
        _read_network(name, index, params, manifest.image_size, examples)
        for index, name in enumerate(params.networks)
    ]
    first = networks[0]
    for network in networks[1:]:
        if not network.images["file_name"].equals(first.images["file_name"]):
            raise StageError(
                f"metrics/{first.name}.images.csv and metrics/{network.name}.images.csv are of"
                f" different test images; `dvc repro -f evaluate@{first.name}"
                f" evaluate@{network.name}` makes both again"
            )
    return networks


def metric(values: Any, path: tuple[str, ...]) -> Any:
    """The value of a schema at a path such as ("iou", "pet"); None where it has none."""
    value = getattr(values, path[0], None)
    return value if value is None or len(path) == 1 else value[path[1]]


def _read_network(name: str, index: int, params: Params, size: int, examples: int) -> Network:
    evaluate = f"evaluate@{name}"
    results = Results.read(METRICS_FOLDER / f"{name}.json", evaluate)
    images = read_images(METRICS_FOLDER / f"{name}.images.csv", evaluate)
    if len(images) != results.images:
        raise damaged(METRICS_FOLDER / f"{name}.images.csv", evaluate)
    strip = (size, 3 * size, 3)
    return Network(
        name=name,
        color=network_color(index),
        results=results,
        images=images,
        history=_read_table(f"{name}.history.csv", HISTORY_COLUMNS, f"train@{name}"),
        exports=_read_table(f"{name}.exports.csv", EXPORT_COLUMNS, f"export@{name}"),
        predictions=_read_pixels(f"{name}.examples.png", (examples, size, size), evaluate),
        worst=_read_pixels(f"{name}.worst.png", (len(results.worst), *strip), evaluate),
        best=_read_pixels(f"{name}.best.png", (len(results.best), *strip), evaluate),
        encoder_weights=getattr(params.network(name), "encoder_weights", "none"),
    )


def _read_table(file: str, numbers: list[str], stage: str) -> pd.DataFrame:
    path = METRICS_FOLDER / file
    try:
        # A line that is cut off may still be a number.
        whole = path.read_bytes().endswith(b"\n")
        table = pd.read_csv(path)
        values = table[numbers].to_numpy(np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise damaged(path, stage) from error
    if table.empty or not whole or not np.isfinite(values).all():
        raise damaged(path, stage)
    return table


def _read_pixels(file: str, shape: tuple[int, ...], stage: str) -> Pixels:
    path = METRICS_FOLDER / file
    try:
        with Image.open(path) as image:
            return np.asarray(image).reshape(shape)
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(path, stage) from error
