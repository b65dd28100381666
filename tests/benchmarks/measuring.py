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
from dvc.utils.flatten import flatten, unflatten

from stages.params import Params, check_params
from stages.prepare.__main__ import write_records
from stages.records.manifest import Manifest
from stages.train.batches import training_batches

T = TypeVar("T")


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
        """The first images of the splits; in the full form all of them."""
        if self.full:
            return params
        splits = {"train_split": f"train[:{train}]", "test_split": f"test[:{test}]"}
        return params.model_copy(update=splits)

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
    def verdict(self) -> str:
        """Whether the median reaches the goal; empty without one."""
        if not self.goal:
            return ""
        sign, bound = self.goal.split()
        compared = {">=": operator.ge, "<=": operator.le}[sign]
        return "reached" if compared(statistics.median(self.values), float(bound)) else "missed"


def changed(params: Params, changes: Mapping[str, Any]) -> Params:
    """The parameters with other values for some dotted keys; raises StageError as check_params."""
    return check_params(unflatten(flatten(params.model_dump()) | changes))


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


def fresh_process(cores: Iterable[int]) -> ProcessPoolExecutor:
    """One new process, bound to `cores` before it imports TensorFlow."""
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawn, initializer=os.sched_setaffinity, initargs=(0, cores))


def run_alone(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a process of its own."""
    with fresh_process(os.sched_getaffinity(0)) as process:
        return process.submit(function, *arguments).result()


def compare(name: str, setting: Setting) -> list[Row]:
    """Run the comparison of tests/benchmarks/<name>.py; raises StageError if it cannot run here."""
    return importlib.import_module(f"tests.benchmarks.{name}").compare(setting)


def interleaved(actions: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What actions return in each round, in turn: a slower machine slows all of them alike.

    A first round warms up (functions are traced, files come into memory) and is not kept. Every
    other round goes backwards, so that no action always follows the same one.
    """
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name in list(actions)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(actions[name]())
    return {name: values[1:] for name, values in found.items()}


def seconds(action: Callable[[], object]) -> float:
    """The wall time of an action in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def pair(
    found: Mapping[str, Sequence[float]], names: Iterable[str], goal: str = "", about: str = ""
) -> list[Row]:
    """Two rows of images a second, and one of the ratios of the first to the second in each round.

    The median of the ratios is less disturbed than the ratio of the medians.
    """
    over, under = names
    ratios = [a / b for a, b in zip(found[over], found[under], strict=True)]
    rates = [Row(about + name, found[name], "images/s") for name in (over, under)]
    return [*rates, Row(f"{about}{over} / {under}", ratios, "", goal)]
