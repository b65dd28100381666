"""Records and clocks that several comparisons need."""

import time
from pathlib import Path

import keras

from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.prepare.source import count, open_dataset
from stages.records.manifest import Manifest
from tests.benchmarks.setting import Setting, changed

# All that `stages.augment` can do, on training pictures that are larger than the network's.
FULL_RECIPE = {
    "train_image_scale": 1.5,
    "augmentation.horizontal_flip": True,
    "augmentation.crop_scale": 0.6,
    "augmentation.crop_aspect": 1.15,
    "augmentation.brightness": 0.2,
    "augmentation.contrast": 0.2,
    "augmentation.saturation": 0.2,
}


def shortened(setting: Setting, params: Params, train: int, test: int) -> Params:
    """The parameters with the first pictures of whole splits; all of them in the full form.

    Args:
        setting: What the comparison runs on.
        params: All parameters.
        train: How many training pictures.
        test: How many test pictures.
    """
    if setting.full:
        return params
    builder = open_dataset(params.dataset, setting.scratch)
    splits = {}
    for key, most in (("train_split", train), ("test_split", test)):
        split = getattr(params, key)
        if count(builder, split, key) > most and "[" not in split:
            splits[key] = f"{split}[:{most}]"
    return changed(params, splits)


def written(setting: Setting, params: Params, name: str) -> tuple[Path, Manifest]:
    """Writes records into a folder `name` of the scratch folder; returns it and their manifest."""
    folder = setting.scratch / name
    folder.mkdir()
    return folder, write_records(params, folder, setting.scratch)


class Clock(keras.callbacks.Callback):
    """Notes when each step and each epoch of a training ends, in seconds of `perf_counter`."""

    def __init__(self) -> None:
        """Starts without any."""
        super().__init__()
        self.steps: list[float] = []
        self.epochs: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Notes a step; Keras has waited for its loss, as it does for the stage's progress bar."""
        self.steps.append(time.perf_counter())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Notes an epoch."""
        self.epochs.append(time.perf_counter())
