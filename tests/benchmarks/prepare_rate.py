"""How fast `prepare` makes records, against a plain TFDS loop that decodes and resizes.

Each runs in processes that are bound to one core and to two before they import TensorFlow; all
four take turns.
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

import tensorflow as tf

from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.prepare.source import count, open_dataset
from stages.stage import StageError
from tests.benchmarks.measuring import Row, Setting, fresh_process, interleaved, pair, seconds


def compare(setting: Setting) -> list[Row]:
    """Measure both on one core and on two."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise StageError("two cores are needed, and this machine has one")
    params = setting.shortened(setting.params, 160, 40)
    builder = open_dataset(params.dataset, setting.scratch)
    images = sum(count(builder, split, "") for split in (params.train_split, params.test_split))

    def rate(process: Executor, function: Callable[[Params, Path], float]) -> float:
        return images / process.submit(function, params, setting.scratch).result()

    with fresh_process(cores[:1]) as one, fresh_process(cores) as two:
        actions = {
            "prepare, 1 core": lambda: rate(one, prepare),
            "loop, 1 core": lambda: rate(one, loop),
            "prepare, 2 cores": lambda: rate(two, prepare),
            "loop, 2 cores": lambda: rate(two, loop),
        }
        found = interleaved(actions, setting.rounds)
    return [
        *pair(found, ("prepare, 1 core", "loop, 1 core"), ">= 0.9"),
        *pair(found, ("prepare, 2 cores", "loop, 1 core"), ">= 1.6"),
        *pair(found, ("prepare, 2 cores", "loop, 2 cores"))[1:],
    ]


def prepare(params: Params, scratch: Path) -> float:
    """The seconds in which `prepare` writes the records of all splits."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        return seconds(lambda: write_records(params, Path(folder), scratch))


def loop(params: Params, scratch: Path) -> float:
    """The seconds in which TFDS decodes all splits and TensorFlow resizes them; nothing is kept.

    The image is resized without antialiasing, which `prepare` does with it.
    """
    size = (params.image_size, params.image_size)

    def resize(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.resize(example["image"], size, "bilinear")
        return image, tf.image.resize(example["segmentation_mask"], size, "nearest")

    def run() -> None:
        builder = open_dataset(params.dataset, scratch)
        for split in (params.train_split, params.test_split):
            images = builder.as_dataset(split=split)  # what tfds.load gives
            for _ in images.map(resize, num_parallel_calls=tf.data.AUTOTUNE):
                pass

    return seconds(run)
