"""Stages in real processes, to be killed, starved and run side by side.

Importing TensorFlow, Keras and MLflow takes many seconds, so one process imports them, runs
nothing, and is forked for each stage: it has one Python thread, and TensorFlow starts its own with
the first operation.
"""

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import pytest

from stages.stage import run_stage

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "train", "evaluate", "export", "plot")


class Ended(NamedTuple):
    """How a stage ended."""

    code: int  # exit status; minus the signal's number where one ended the process
    out: str
    errors: str


@contextmanager
def stage_processes() -> Iterator[ForkServerContext]:
    """The process that is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"stages.{stage}.__main__" for stage in STAGES] + [__name__])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TQDM_DISABLE"):
            patch.setenv(name, "1")  # with more threads a fork would not be safe
        patch.setenv("PYTHONPATH", str(ROOT))
        context.Process(target=int).start()
    yield context


def end_of_stage(
    context: ForkServerContext, folder: Path, stage: str, *arguments: str, fault: Callable[[], None]
) -> Ended:
    """Run a stage in a process of its own, in a folder as its repository (DVC_ROOT).

    `fault` is called in the process before the stage, and can be pickled.
    """
    with tempfile.TemporaryDirectory() as logs:  # not in a folder that may be full
        files = [Path(logs, name) for name in ("out", "err")]
        work = (folder, stage, arguments, fault, files)
        process = context.Process(target=_run, args=work)
        process.start()
        process.join(600)
        assert process.exitcode is not None, "the stage does not end"
        return Ended(process.exitcode, *(file.read_text() for file in files))


def _run(
    folder: Path,
    stage: str,
    arguments: tuple[str, ...],
    fault: Callable[[], None],
    files: list[Path],
) -> None:
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        os.environ.pop(variable, None)
    main = importlib.import_module(f"stages.{stage}.__main__").main
    for name, module in list(sys.modules.items()):  # which read DVC_ROOT when they are imported
        if name.startswith("stages.") and hasattr(module, "ROOT"):
            vars(module)["ROOT"] = folder
    sys.argv = [stage, *arguments]
    fault()
    run_stage(stage, main)
