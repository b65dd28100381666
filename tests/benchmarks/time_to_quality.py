"""How long the project and the notebook train until the U-Net is right on 89 % of test pixels.

The time begins with the reading of the dataset and leaves the measurements after each epoch out.
Each recipe runs once, in a process of its own.
"""

import time
from typing import Any, NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from recipes.__main__ import load_recipe
from stages.params import Params
from stages.prepare.source import count, open_dataset
from stages.records.tfrecords import load_split
from stages.stage import StageError
from stages.train import loop
from tests.benchmarks import notebook
from tests.benchmarks.measuring import Row, Setting, changed, run_alone
from tests.kept_run import KeptRun

ACCURACY = 0.890
NOTEBOOK_EPOCHS = 10
RECIPE = "unet_fast"


class Epoch(NamedTuple):
    """What is known after an epoch."""

    seconds: float  # since the start, measurements left out
    accuracy: float  # share of the test split's pixels


def compare(setting: Setting) -> list[Row]:
    """Train both ways and compare the seconds to the accuracy."""
    if not setting.full or not setting.params.dataset.startswith("oxford_iiit_pet"):
        raise StageError("only with --full --dataset oxford_iiit_pet")
    chosen = changed(setting.params, load_recipe(RECIPE))
    found = {
        "notebook": run_alone(train_notebook, setting),
        "project": run_alone(train_project, setting, chosen),
    }
    # Where the notebook's recipe does not get there, its own best is the quality to reach.
    target = min(ACCURACY, max(epoch.accuracy for epoch in found["notebook"]))
    rows, times = [], []
    for name, epochs in found.items():
        best = max(epoch.accuracy for epoch in epochs)
        rows.append(Row(f"{name}: best accuracy in {len(epochs)} epochs", [best]))
        reached = [epoch.seconds for epoch in epochs if epoch.accuracy >= target]
        if reached:
            times.append(reached[0])
            rows.append(Row(f"{name}: time to accuracy {target:.4f}", reached[:1], "s"))
    if len(times) == 2:
        rows.append(Row("time, project / notebook", [times[1] / times[0]], "", "<= 0.333"))
    return rows


def train_notebook(setting: Setting) -> list[Epoch]:
    """The notebook's training until the accuracy is reached, or for NOTEBOOK_EPOCHS."""
    keras.utils.set_random_seed(setting.params.seed)
    params, size = setting.params, setting.params.image_size
    found: list[Epoch] = []
    measuring = 0.0

    def measure(epoch: int, logs: object) -> None:
        nonlocal measuring
        end = time.perf_counter()
        predicted = model.predict(images, verbose=0).argmax(-1)
        found.append(Epoch(end - start - measuring, float(np.mean(predicted == masks))))
        model.stop_training = found[-1].accuracy >= ACCURACY
        measuring += time.perf_counter() - end

    builder = open_dataset(params.dataset, setting.scratch)
    shape = (size, size)
    test = builder.as_dataset(split=params.test_split).map(
        lambda example: (
            tf.image.resize(example["image"], shape) / 255,
            tf.image.resize(example["segmentation_mask"], shape, "nearest")[..., 0] - 1,
        )
    )
    images, masks = (np.stack(part) for part in zip(*test.as_numpy_iterator(), strict=True))
    start = time.perf_counter()
    builder = open_dataset(params.dataset, setting.scratch)
    examples = notebook.examples(builder, params.train_split, size)
    pretrained = params.unet.model_copy(update={"encoder_weights": "imagenet"})
    model = notebook.compiled(pretrained, size, 3)
    total = count(builder, params.train_split, "train_split")
    callback = keras.callbacks.LambdaCallback(on_epoch_end=measure)
    notebook.train(model, examples, total, NOTEBOOK_EPOCHS, callback)
    return found


def train_project(setting: Setting, params: Params) -> list[Epoch]:
    """The stages `prepare` and `train` with the recipe's parameters; all epochs of it."""
    # The test split as `prepare` stores it; hardly any training images.
    few = params.model_copy(update={"train_split": "train[:32]", "validation_share": 0.5})
    split = load_split(*setting.records(few, "test"), "test")
    test = tf.data.Dataset.from_tensor_slices(split).batch(32)
    found: list[Epoch] = []
    measuring = 0.0

    class Measured(loop.Trainer):
        def validate(self, *arguments: Any) -> dict[str, float]:
            nonlocal measuring
            metrics = super().validate(*arguments)
            end = time.perf_counter()
            accuracy = super().validate(test)["val_accuracy"]
            found.append(Epoch(end - start - measuring, accuracy))
            measuring += time.perf_counter() - end
            return metrics

    start = time.perf_counter()
    folder, manifest = setting.records(params, "project")
    with mock.patch.object(loop, "Trainer", Measured):
        loop.train("unet", params, manifest, folder, KeptRun())
    return found
