"""How long the project and the notebook train until the U-Net is right on 89 % of test pixels.

The time begins with the reading of the dataset and leaves the measurements after each epoch out.
Each recipe runs once, in a process of its own.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from recipes.__main__ import load_recipe
from stages.params import Params
from stages.prepare.__main__ import resized
from stages.prepare.source import count, decode, open_dataset, read_split
from stages.records.classes import CLASS_NAMES
from stages.train.__main__ import train
from tests.benchmarks import notebook_recipe
from tests.benchmarks.setting import Setting, changed, run_alone
from tests.benchmarks.timing import Result, Row
from tests.benchmarks.workload import written
from tests.kept_run import KeptRun

ACCURACY = 0.890
NOTEBOOK_EPOCHS = 10
RECIPE = "unet_fast"


class Epoch(NamedTuple):
    """What is known after an epoch."""

    seconds: float  # since the start, measurements left out
    accuracy: float  # share of the test split's pixels


def compare(setting: Setting) -> Result:
    """Trains both ways and compares the seconds to the accuracy."""
    chosen = changed(setting.params, load_recipe(RECIPE) | dict(setting.changes))
    notebook_epochs = run_alone(train_notebook, setting)
    project_epochs, prepared = run_alone(train_project, setting, chosen)
    best = {
        "notebook": max(epoch.accuracy for epoch in notebook_epochs),
        "project": max(epoch.accuracy for epoch in project_epochs),
    }
    # Where the notebook's recipe does not get there, its own best is the quality to reach.
    target = min(ACCURACY, best["notebook"])
    rows = [
        Row(f"notebook: best accuracy in {len(notebook_epochs)} epochs", [best["notebook"]]),
        Row(f"project: best accuracy in {len(project_epochs)} epochs", [best["project"]]),
    ]
    times = []
    for name, epochs in (("notebook", notebook_epochs), ("project", project_epochs)):
        reached = [epoch.seconds for epoch in epochs if epoch.accuracy >= target]
        if reached:
            times.append(reached[0])
            rows.append(Row(f"{name}: time to accuracy {target:.4f}", reached[:1], "s"))
    rows.append(Row("project: of it, preparation", [prepared], "s"))
    if len(times) == 2:
        rows.append(Row("time, project / notebook", [times[1] / times[0]], "", "<= 0.333"))
    details = {
        "recipe": chosen.model_dump(),
        "notebook": [epoch._asdict() for epoch in notebook_epochs],
        "project": [epoch._asdict() for epoch in project_epochs],
    }
    return Result(rows, details)


class TestAccuracy(keras.callbacks.Callback):
    """Measures the pixel accuracy on test pictures after each epoch, beside the clock."""

    __test__ = False  # for pytest

    def __init__(
        self,
        images: npt.NDArray,
        masks: npt.NDArray[np.uint8],
        start: float,
        stop_at: float | None = None,
    ) -> None:
        """Takes the test pictures and the start of the clock.

        Args:
            images: [image, height, width, 3], in the range of the network's input.
            masks: [image, height, width].
            start: When the clock started, in seconds of `perf_counter`.
            stop_at: The accuracy that ends the training; none if None.
        """
        super().__init__()
        self.epochs: list[Epoch] = []
        self._batches = tf.data.Dataset.from_tensor_slices((images, masks)).batch(32)
        self._start = start
        self._stop_at = stop_at

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Prepares the prediction; it is traced with the first measurement."""
        self._forward = tf.function(lambda images: self.model(images, training=False))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measures, and takes the time that this takes out of the clock."""
        end = time.perf_counter()
        right = [
            np.mean(self._forward(images).numpy().argmax(-1) == masks.numpy(), axis=(1, 2))
            for images, masks in self._batches
        ]
        accuracy = float(np.concatenate(right).mean())
        self.epochs.append(Epoch(end - self._start, accuracy))
        if self._stop_at is not None and accuracy >= self._stop_at:
            self.model.stop_training = True
        self._start += time.perf_counter() - end


def train_notebook(setting: Setting) -> list[Epoch]:
    """The notebook's training until the accuracy is reached, or for NOTEBOOK_EPOCHS."""
    keras.utils.set_random_seed(setting.params.seed)
    params, size = setting.params, setting.params.image_size
    images, masks = _test_pictures(
        setting,
        lambda image: notebook_recipe.scaled(tf.image.resize(image, (size, size))).numpy(),
    )
    start = time.perf_counter()
    builder = open_dataset(params.dataset, setting.scratch)
    pictures = notebook_recipe.examples(builder, params.train_split, size)
    pretrained = params.unet.model_copy(update={"encoder_weights": "imagenet"})
    model = notebook_recipe.compiled(pretrained, size, len(CLASS_NAMES))
    accuracy = TestAccuracy(images, masks, start, stop_at=ACCURACY)
    total = count(builder, params.train_split, "train_split")
    notebook_recipe.train(model, pictures, total, NOTEBOOK_EPOCHS, [accuracy])
    return accuracy.epochs


def train_project(setting: Setting, params: Params) -> tuple[list[Epoch], float]:
    """The stages `prepare` and `train` with the recipe's parameters; all epochs of it.

    Returns:
        What is known after each epoch, and the seconds of `prepare`.
    """
    images, masks = _test_pictures(setting, None)
    start = time.perf_counter()
    folder, manifest = written(setting, params, "time_to_quality")
    prepared = time.perf_counter() - start
    accuracy = TestAccuracy(images, masks, start)
    train("unet", params, manifest, folder, KeptRun(), callbacks=[accuracy])
    return accuracy.epochs, prepared


def _test_pictures(
    setting: Setting, resize: Callable[[npt.NDArray[np.uint8]], npt.NDArray] | None
) -> tuple[npt.NDArray, npt.NDArray[np.uint8]]:
    """The test split: masks by nearest neighbour, images by `resize`, or as `prepare` has them."""
    params = setting.params
    images, masks = [], []
    builder = open_dataset(params.dataset, setting.scratch)
    for raw in map(decode, read_split(builder, params.test_split)):
        example = resized(raw, params.image_size)
        images.append(resize(np.asarray(raw.image)) if resize else example.image)
        masks.append(example.mask)
    return np.stack(images), np.stack(masks)
