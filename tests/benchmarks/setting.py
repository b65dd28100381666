"""What a comparison runs on, and the fresh process that it runs in."""

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stages.params import Params, check_params
from stages.records.manifest import RECORDS_FOLDER
from stages.stage import StageError
from tests.benchmarks.timing import Result

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What all comparisons share.

    Attributes:
        params: The parameters of params.yaml with the command line's changes.
        changes: These changes, by dotted keys.
        full: Whether the long form is asked for.
        scratch: A folder that is removed at the end; synthetic pictures are drawn there once.
    """

    params: Params
    changes: Mapping[str, Any]
    full: bool
    scratch: Path

    @property
    def rounds(self) -> int:
        """How many rounds are kept."""
        return 5 if self.full else 3


def parsed_changes(arguments: Iterable[str]) -> dict[str, Any]:
    """Reads `key=value` arguments as `dvc exp run -S` writes them; values are YAML.

    Raises:
        StageError: An argument has no `=`.
    """
    changes = {}
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if not sign:
            raise StageError(f"-S {argument}: `key=value` is needed")
        changes[key] = yaml.safe_load(value)
    return changes


def changed(params: Params, changes: Mapping[str, Any]) -> Params:
    """The parameters with other values for some keys; `unet.learning_rate` is a key in a group.

    Raises:
        StageError: The parameters are then not allowed.
    """
    values = params.model_dump()
    for key, value in changes.items():
        *groups, last = key.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return check_params(values, "the benchmarks' parameters")


def fresh_process(cores: Iterable[int] | None = None) -> ProcessPoolExecutor:
    """One new process, which imports TensorFlow for itself.

    Args:
        cores: The cores that it is bound to before anything is imported; all of them if None.
    """
    return ProcessPoolExecutor(
        max_workers=1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=os.sched_setaffinity,
        initargs=(0, set(cores or os.sched_getaffinity(0))),
    )


def run_alone(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a process of its own and returns its result."""
    with fresh_process() as process:
        return process.submit(function, *arguments).result()


def obstacle(name: str, setting: Setting) -> str:
    """Why a comparison is left out, or nothing: asked before a process is started for it."""
    if name == "time_to_quality" and not setting.full:
        return "only in the full form (FULL=1)"
    if name == "time_to_quality" and not setting.params.dataset.startswith("oxford_iiit_pet"):
        return "only on the real dataset (DATASET=oxford_iiit_pet)"
    if name == "evaluation_pass":
        models = [Path("models") / f"{network}.keras" for network in setting.params.networks]
        missing = [str(path) for path in (RECORDS_FOLDER, *models) if not path.exists()]
        return f"there is no {', no '.join(missing)}; `dvc repro` makes them" if missing else ""
    return ""


def compare(name: str, setting: Setting) -> Result:
    """Runs the comparison of the module tests/benchmarks/<name>.py.

    Raises:
        StageError: It cannot be run here, and why.
    """
    return importlib.import_module(f"tests.benchmarks.{name}").compare(setting)
