"""What `train` and `evaluate` log to MLflow while they run.

The files that a stage declares hold everything, and MLflow is a view of them: whatever goes wrong
here is one warning, and costs no training.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.store.db import utils as database
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from stages.params import Params
from stages.records.manifest import RECORDS_FOLDER, Manifest
from stages.runs import run
from stages.stage import ROOT

EXPERIMENT = "pet-segmentation"


def open_experiment() -> str:
    """Open the tracking store and the experiment, created if need be, and return the latter's id.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME win; the defaults are SQLite in the repository's
    root and EXPERIMENT.
    """
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # It raises what it logs, with the statement and a stack trace.
        logging.getLogger(database.__name__).setLevel(logging.CRITICAL)
    # By default a request is tried eight times, 120 s each, and a database ten times in 100 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    database.MAX_RETRY_COUNT = 1
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT / 'mlflow.db'}"
    mlflow.set_tracking_uri(store)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if re.split(r"[:+]", store)[0] not in DATABASE_ENGINES:  # a server knows where artifacts go
        return mlflow.set_experiment(name).experiment_id
    # One process at a time: several that create MLflow's tables in an empty database fail.
    with FileLock(ROOT / ".dvc" / "tmp" / "mlflow.lock", timeout=120):
        if mlflow.get_experiment_by_name(name) is None:
            mlflow.create_experiment(name, artifact_location=(ROOT / "mlartifacts").as_uri())
        return mlflow.set_experiment(name).experiment_id


class TrainingRun:
    """The run of one training, as a context: parameters, tags and the metrics of each epoch.

    With a `run_id`, the run and the epochs of an interrupted training are continued.
    """

    def __init__(
        self,
        network: str,
        params: Params,
        manifest: Manifest,
        run_id: str = "",
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self._training = _training(network, params, manifest)
        self._resumed, self._history = run_id, history
        self._run_id, self._alive = "", True
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor()]
        with contextlib.suppress(Exception):  # no GPU, no driver, or no package that reads it
            self._monitors.append(GPUMonitor())

    @property
    def run_id(self) -> str:
        """The run's id; empty if it is not recorded."""
        return self._run_id if self._alive else ""

    def __enter__(self) -> Self:
        self._attempt(self._start)
        return self

    def _start(self) -> None:
        self._load()
        experiment = open_experiment()
        if self._resumed:
            with contextlib.suppress(mlflow.MlflowException):  # another store, or it was deleted
                MlflowClient().update_run(self._resumed, "RUNNING")
                self._run_id = self._resumed
                return
        self._run_id = run.start_run(experiment, self._training)
        for row in self._history:
            run.log_epoch(self._run_id, row)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "KILLED" if kind is KeyboardInterrupt else "FAILED" if kind else "FINISHED"
        if self._run_id:
            with contextlib.suppress(Exception):  # `evaluate` warns of a store that is down
                MlflowClient().set_terminated(self._run_id, status)

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Log a row of the history, the epoch's time, the training rate and the machine's load."""
        speed = {"speed/epoch_seconds": seconds, "speed/images_per_second": images_per_second}
        self._attempt(lambda: run.log_epoch(self._run_id, {**row, **speed, **self._load()}))

    def log_files(self, model_path: Path, history_path: Path) -> None:
        """Log the trained network and its history, and tie the run to the network's file."""

        def log() -> None:
            model = run.load_model(model_path)
            run.log_training(self._run_id, self._training, model, history_path, RECORDS_FOLDER)
            MlflowClient().set_tag(self._run_id, run.MODEL_TAG, run.file_md5(model_path))

        self._attempt(log)

    def _load(self) -> dict[str, float]:
        """CPU since the last call, memory and GPUs now, under the names of MLflow's own monitor."""
        loads: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.clear_metrics()
            monitor.collect_metrics()
            loads |= monitor.aggregate_metrics()
        return {f"system/{name}": value for name, value in loads.items()}

    def _attempt(self, action: Callable[[], object]) -> None:
        """Use MLflow, unless an earlier attempt has failed."""
        self._alive = self._alive and tolerate(action)


def log_evaluation(network: str, params: Params, manifest: Manifest, model_path: Path) -> None:
    """Add the test metrics in the working folder to a network's run, and register the network.

    A run that the store lacks is created from the files.
    """

    def log() -> None:
        experiment, md5 = open_experiment(), run.file_md5(model_path)
        found = run.find_run(experiment, md5, params.test_time_flip)
        model = None if found else run.load_model(model_path)
        training = _training(network, params, manifest)
        run.record(experiment, training, found, md5, model, Path())

    tolerate(log)


def _training(network: str, params: Params, manifest: Manifest) -> run.Training:
    """What this process trains or evaluates."""
    title, tags = f"{datetime.now():%m-%d %H:%M}", {}
    if experiment := os.environ.get("DVC_EXP_NAME"):
        title = experiment
        tags = run.experiment_tags(experiment, os.environ.get("DVC_EXP_BASELINE_REV", ""))
    return run.Training(network, run.training_params(network, params), manifest, title, tags)


def tolerate(action: Callable[[], object]) -> bool:
    """Use MLflow; trouble is a warning. Returns whether there was none."""
    try:
        action()
    except Exception as error:  # MLflow, SQLAlchemy, requests, the file system: anything
        print(f"warning: {trouble(error)}; the stage goes on", file=sys.stderr)
        return False
    return True


def trouble(error: BaseException) -> str:
    """What a failure of the store means."""
    failure = one_line(f"MLflow at {mlflow.get_tracking_uri()} failed: {one_line(error)}")
    return f"{failure}; `make sync` logs later what is missing"


def one_line(error: object) -> str:
    """The first line of a message, without the password of scheme://user:password@host."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"//[^/@\s]+@", "//***@", line)
