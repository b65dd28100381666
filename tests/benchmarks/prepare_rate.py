"""How fast `prepare` makes records, against a plain TFDS loop that decodes and resizes.

Each runs in processes that are bound to one core and to two before they import TensorFlow; all
four take turns.
"""

import functools
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import tensorflow as tf

from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.prepare.source import count, open_dataset
from stages.stage import StageError
from tests.benchmarks.setting import Setting, fresh_process
from tests.benchmarks.timing import Result, Row, interleaved, ratios, seconds
from tests.benchmarks.workload import shortened


def compare(setting: Setting) -> Result:
    """Measures both on one core and on two."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise StageError("two cores are needed, and this machine has one")
    params = shortened(setting, setting.params, 160, 40)
    builder = open_dataset(params.dataset, setting.scratch)
    images = sum(
        count(builder, split, "split") for split in (params.train_split, params.test_split)
    )
    with ExitStack() as stack:
        one = stack.enter_context(fresh_process(cores[:1]))
        two = stack.enter_context(fresh_process(cores))

        def rate(process: ProcessPoolExecutor, function: Callable[[Params, Path], float]) -> float:
            return images / process.submit(function, params, setting.scratch).result()

        actions = {
            f"{function.__name__} {number}": functools.partial(rate, process, function)
            for number, process in ((1, one), (2, two))
            for function in (prepare, loop)
        }
        found = interleaved(actions, setting.rounds)
    loop_title = "TFDS loop (map with parallel calls)"
    rows = [
        Row("prepare, 1 core", found["prepare 1"], "images/s"),
        Row(f"{loop_title}, 1 core", found["loop 1"], "images/s"),
        Row("prepare, 2 cores", found["prepare 2"], "images/s"),
        Row(f"{loop_title}, 2 cores", found["loop 2"], "images/s"),
    ]
    for made, plain, goal in ((1, 1, ">= 0.9"), (2, 1, ">= 1.6"), (2, 2, "")):
        ratio = ratios(found[f"prepare {made}"], found[f"loop {plain}"])
        rows.append(Row(f"prepare on {made} / loop on {plain}", ratio, "", goal))
    return Result(rows, {"images": images, "cores": cores})


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
            pictures = builder.as_dataset(split=split)  # what tfds.load gives
            for _ in pictures.map(resize, num_parallel_calls=tf.data.AUTOTUNE):
                pass

    return seconds(run)
