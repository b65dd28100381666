"""How long the project and the notebook train until the U-Net is right on 89 % of test pixels.

The time begins with the reading of the dataset and leaves the measurements after each epoch out.
Each recipe runs once, in a process of its own.
"""

import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import tensorflow as tf

from recipes.__main__ import load_recipe
from stages.params import Params
from stages.prepare.source import count, open_dataset
from stages.records.tfrecords import load_split
from stages.train import loop
from tests.benchmarks import notebook
from tests.benchmarks.measuring import Row, changed, records
from tests.kept_run import KeptRun

ACCURACY = 0.890
NOTEBOOK_EPOCHS = 10
Epochs = list[tuple[float, float]]  # seconds since the start, and accuracy on the test pixels


class Clock:
    """Keeps the time of each epoch, and stands while the accuracy is measured."""

    def __init__(self) -> None:
        self.epochs: Epochs = []
        self._start = time.perf_counter()

    def epoch(self, accuracy: Callable[[], float]) -> float:
        """Keep an epoch that ends now, and return its accuracy."""
        end = time.perf_counter()
        self.epochs.append((end - self._start, accuracy()))
        self._start += time.perf_counter() - end
        return self.epochs[-1][1]


def compare(params: Params, scratch: Path) -> list[Row]:
    """Train both ways and compare the seconds to the accuracy."""
    chosen = changed(params, load_recipe("unet_fast") | {"dataset": params.dataset})
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as alone:
        found = {
            "notebook": alone.submit(train_notebook, params, scratch).result(),
            "project": alone.submit(train_project, chosen, scratch).result(),
        }
    # Where the notebook's recipe does not get there, its own best is the quality to reach.
    target = min(ACCURACY, max(accuracy for _, accuracy in found["notebook"]))
    rows, times = [], []
    for name, epochs in found.items():
        best = max(accuracy for _, accuracy in epochs)
        rows.append(Row(f"{name}: best accuracy in {len(epochs)} epochs", [best]))
        times.append(next((end for end, accuracy in epochs if accuracy >= target), math.inf))
        rows.append(Row(f"{name}: time to accuracy {target:.4f}", times[-1:], "s"))
    return [*rows, Row("time, notebook / project", [times[0] / times[1]], goal=3)]


def train_notebook(params: Params, scratch: Path) -> Epochs:
    """The notebook's training until the accuracy is reached, or for NOTEBOOK_EPOCHS."""
    keras.utils.set_random_seed(params.seed)
    size = (params.image_size, params.image_size)
    builder = open_dataset(params.dataset, scratch)
    test = builder.as_dataset(split=params.test_split).map(
        lambda example: (
            tf.image.resize(example["image"], size) / 255,
            tf.image.resize(example["segmentation_mask"], size, "nearest") - 1,
        )
    )

    def measure(epoch: int, logs: object) -> None:
        accuracy = clock.epoch(lambda: model.evaluate(test.batch(32), verbose=0)[1])
        model.stop_training = accuracy >= ACCURACY

    clock = Clock()
    examples = notebook.examples(builder, params.train_split, params.image_size)
    pretrained = params.unet.model_copy(update={"encoder_weights": "imagenet"})
    model = notebook.compiled(pretrained, params.image_size, 3)
    model.fit(
        examples.shuffle(1000).batch(notebook.BATCH_SIZE).repeat().prefetch(tf.data.AUTOTUNE),
        epochs=NOTEBOOK_EPOCHS,
        steps_per_epoch=count(builder, params.train_split, "") // notebook.BATCH_SIZE,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure)],
        verbose=0,
    )
    return clock.epochs


def train_project(params: Params, scratch: Path) -> Epochs:
    """The stages `prepare` and `train` with the recipe's parameters; all epochs of it."""
    # The test split as `prepare` stores it; hardly any training images.
    few = params.model_copy(update={"train_split": "train[:32]", "validation_share": 0.5})
    split = load_split(*records(few, scratch, "test"), "test")
    test = tf.data.Dataset.from_tensor_slices(split).batch(32)

    class Measured(loop.Trainer):
        def validate(self, *arguments: Any) -> dict[str, float]:
            metrics = super().validate(*arguments)
            clock.epoch(lambda: loop.Trainer.validate(self, test)["accuracy"])
            return metrics

    clock = Clock()
    folder, manifest = records(params, scratch, "project")
    with mock.patch.object(loop, "Trainer", Measured):
        loop.train("unet", params, manifest, folder, KeptRun())
    return clock.epochs
