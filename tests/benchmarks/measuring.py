"""What the comparisons share: parameters, records, processes, and measurements taken in turn."""

import importlib
import multiprocessing
import operator
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from stages.params import Params, check_params
from stages.prepare.__main__ import write_records
from stages.prepare.source import count, open_dataset
from stages.records.manifest import Manifest
from stages.train.batches import training_batches

T = TypeVar("T")
# Every augmentation, on training images that are larger than the network's.
FULL_RECIPE = {
    "train_image_scale": 1.5,
    "augmentation.horizontal_flip": True,
    "augmentation.crop_scale": 0.6,
    "augmentation.crop_aspect": 1.15,
    "augmentation.brightness": 0.2,
    "augmentation.contrast": 0.2,
    "augmentation.saturation": 0.2,
}


@dataclass(frozen=True)
class Setting:
    """What a comparison runs on."""

    params: Params  # params.yaml, with the dataset of the command line
    full: bool  # the long form
    scratch: Path  # removed at the end

    @property
    def rounds(self) -> int:
        """How many rounds are kept."""
        return 5 if self.full else 3

    def shortened(self, params: Params, train: int, test: int) -> Params:
        """The first images of whole splits; in the full form all of them."""
        if self.full:
            return params
        builder = open_dataset(params.dataset, self.scratch)
        splits = {}
        for key, most in (("train_split", train), ("test_split", test)):
            split = getattr(params, key)
            if count(builder, split, key) > most and "[" not in split:
                splits[key] = f"{split}[:{most}]"
        return changed(params, splits)

    def records(self, params: Params, name: str) -> tuple[Path, Manifest]:
        """Write records into a folder `name` of the scratch folder."""
        folder = self.scratch / name
        folder.mkdir()
        return folder, write_records(params, folder, self.scratch)


class Row(NamedTuple):
    """One line of the table."""

    what: str
    values: Sequence[float]  # one of each round
    unit: str = ""
    goal: str = ""  # of the median: ">= 0.95" or "<= 1.1"

    @property
    def median(self) -> float:
        """The middle of the rounds, or the mean of the two."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the goal is reached; empty without one."""
        if not self.goal:
            return ""
        sign, bound = self.goal.split()
        reached = {">=": operator.ge, "<=": operator.le}[sign](self.median, float(bound))
        return "reached" if reached else "missed"


def changed(params: Params, changes: Mapping[str, Any]) -> Params:
    """The parameters with other values for some dotted keys; raises StageError as check_params."""
    values = params.model_dump()
    for key, value in changes.items():
        *groups, last = key.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return check_params(values, "the benchmarks' parameters")


def batches_of(
    params: Params, manifest: Manifest, split: tuple[np.ndarray, np.ndarray], epochs: int
) -> tf.data.Dataset:
    """The training batches of images and masks, as the stage makes them."""
    return training_batches(
        *split,
        epochs=epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        augmentation=params.augmentation,
        image_size=manifest.image_size,
    )


def fresh_process(cores: Iterable[int] | None = None) -> ProcessPoolExecutor:
    """One new process, bound to `cores` (all if None) before it imports TensorFlow."""
    affinity = (0, cores or os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, initializer=os.sched_setaffinity, initargs=affinity)


def run_alone(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own."""
    with fresh_process() as process:
        return process.submit(function, *arguments).result()


def compare(name: str, setting: Setting) -> list[Row]:
    """Run the comparison of tests/benchmarks/<name>.py; raises StageError if it cannot run here."""
    return importlib.import_module(f"tests.benchmarks.{name}").compare(setting)


def interleaved(actions: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run actions in turn, so that a machine that slows down slows all of them alike.

    A first round warms up (functions are traced, files come into memory) and is not kept. Every
    other round goes backwards, so that no action always follows the same one.

    Returns:
        What each action returned, in the order of the rounds.
    """
    found: dict[str, list[T]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name in list(actions)[:: 1 if number % 2 == 0 else -1]:
            measurement = actions[name]()
            if number:
                found[name].append(measurement)
    return found


def seconds(action: Callable[[], object]) -> float:
    """The wall time of an action in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def pair(
    found: Mapping[str, Sequence[float]],
    names: tuple[str, str],
    unit: str,
    goal: str = "",
    about: str = "",
) -> list[Row]:
    """Three rows: two measurements, and the ratios of the first to the second in each round.

    The median of the ratios is less disturbed than the ratio of the medians.
    """
    over, under = names
    ratios = [a / b for a, b in zip(found[over], found[under], strict=True)]
    return [
        Row(about + over, found[over], unit),
        Row(about + under, found[under], unit),
        Row(f"{about}{over} / {under}", ratios, "", goal),
    ]
