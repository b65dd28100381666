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
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from stages.stage import run_stage

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "train", "evaluate", "export", "plot")


class Ended(NamedTuple):
    """How a stage ended."""

    code: int  # exit status; minus the signal's number where one ended the process
    out: str
    errors: str


class Stage:
    """A stage that runs in a process of its own, in a folder as its repository."""

    def __init__(
        self,
        context: ForkServerContext,
        folder: Path,
        stage: str,
        *arguments: str,
        fault: Callable[[], None] | None = None,
        working_folder: Path | None = None,
    ) -> None:
        """Starts it.

        Args:
            context: Of `stage_processes`.
            folder: What DVC_ROOT would be.
            stage: A name of STAGES, with its `arguments`.
            fault: Called in the process before the stage; can be pickled.
            working_folder: Where DVC would run it, if not in `folder`.
        """
        self._logs = tempfile.TemporaryDirectory()  # not in a folder that may be full
        self._files = [Path(self._logs.name) / name for name in ("out", "err")]
        self.process: ForkServerProcess = context.Process(
            target=_run,
            args=(folder, working_folder or folder, stage, arguments, fault, self._files),
        )
        self.process.start()

    def end(self, timeout: float = 600) -> Ended:
        """Waits for the end."""
        self.process.join(timeout)
        code = self.process.exitcode
        assert code is not None, "the stage does not end"
        out, errors = (file.read_text() for file in self._files)
        self._logs.cleanup()
        return Ended(code, out, errors)


@contextmanager
def stage_processes() -> Iterator[ForkServerContext]:
    """The process that is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"stages.{stage}.__main__" for stage in STAGES] + [__name__])
    kept = dict(os.environ)
    # One thread, or a fork would not be safe.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        context.Process(target=int).start()
        yield context
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _run(
    folder: Path,
    working_folder: Path,
    stage: str,
    arguments: tuple[str, ...],
    fault: Callable[[], None] | None,
    files: list[Path],
) -> None:
    for descriptor, file in zip((1, 2), files, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
    os.chdir(working_folder)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        os.environ.pop(variable, None)
    main = importlib.import_module(f"stages.{stage}.__main__").main
    # What DVC_ROOT decides when the modules are imported.
    paths = {"ROOT": folder, "STORE": folder / "mlflow.db", "ARTIFACTS": folder / "mlartifacts"}
    for module in list(sys.modules.values()):
        if module.__name__.startswith("stages."):
            for name in paths.keys() & vars(module).keys():
                setattr(module, name, paths[name])
    sys.argv = [stage, *arguments]
    if fault is not None:
        fault()
    run_stage(stage, main)
