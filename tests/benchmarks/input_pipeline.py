"""Whether training waits for its images: the pipeline alone, and the U-Net's training.

All of it with every augmentation, the most that the pipeline has to do.
"""

import itertools
import resource
import time
from collections.abc import Callable

import tensorflow as tf

from stages.records.tfrecords import load_split
from stages.train.batches import steps_per_epoch
from stages.train.loop import Trainer, prepare_devices
from tests.benchmarks.measuring import (
    FULL_RECIPE,
    Row,
    Setting,
    batches_of,
    changed,
    interleaved,
    pair,
)

EPOCHS = 50  # over which the memory has to stay as it is


def compare(setting: Setting) -> list[Row]:
    """Measure rates, first and second epochs, and the memory of many epochs."""
    params = setting.shortened(changed(setting.params, FULL_RECIPE), 120, 16)
    folder, manifest = setting.records(params, "pipeline")
    prepare_devices(params)
    count = manifest.splits["train"].examples
    steps = steps_per_epoch(count, params.batch_size)
    memory: list[float] = []  # the most of this process so far, after each epoch, in MB

    def run(epochs: int, step: Callable[..., object]) -> list[float]:
        """The seconds of each epoch, the first with the reading of the records."""
        times = [time.perf_counter()]
        split = load_split(folder, manifest, "train")
        batches = batches_of(params, manifest, split, epochs)
        for number, batch in enumerate(batches, 1):
            step(*batch)
            if number % steps == 0:
                times.append(time.perf_counter())
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
        return [end - start for start, end in itertools.pairwise(times)]

    run(EPOCHS, take)
    after_two, after_all = memory[1], memory[-1]
    trainer = Trainer("unet", params, manifest, steps)
    actions = {
        "pipeline alone": lambda: run(2, take),
        "U-Net training": lambda: run(2, trainer.step),
    }
    # The training's step is traced in the warm-up: that is no work of the pipeline.
    found = interleaved(actions, setting.rounds)
    rates = {name: [count / second for _, second in times] for name, times in found.items()}
    rows = pair(rates, ("pipeline alone", "U-Net training"), "images/s", ">= 20")
    # What an epoch does once is too large a part of the quick form's few images.
    goal = "<= 1.1" if setting.full else ""
    first, second = zip(*found["U-Net training"], strict=True)
    epochs = {"first epoch with loading": first, "second epoch": second}
    rows += pair(epochs, ("first epoch with loading", "second epoch"), "s", goal, "U-Net: ")
    rows += [
        Row("most memory until epoch 2", [after_two], "MB"),
        Row(f"most memory until epoch {EPOCHS}", [after_all], "MB"),
        Row(f"memory after epoch {EPOCHS} / after epoch 2", [after_all / after_two], "", "<= 1.05"),
    ]
    return rows


def take(images: tf.Tensor, masks: tf.Tensor) -> None:
    """Stands for a step that takes no time."""
