"""MLflow: one run for each trained network, to which `evaluate` adds the test figures.

The files that a stage declares hold everything; MLflow is a view of them. So whatever goes wrong
here is a warning, and never costs a training.
"""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import mlflow
from filelock import FileLock
from mlflow.entities import Run
from mlflow.store.db import utils as database
from mlflow.store.db.db_types import DATABASE_ENGINES

from stages.params import Params
from stages.records.manifest import RECORDS_FOLDER, Manifest
from stages.runs import contents
from stages.runs.contents import Evaluation, Origin, Training, file_md5
from stages.runs.machine_load import MachineLoad
from stages.stage import ROOT

STORE = ROOT / "mlflow.db"
ARTIFACTS = ROOT / "mlartifacts"
EXPERIMENT = "pet-segmentation"
METRICS_FOLDER = Path("metrics")


def open_experiment() -> str:
    """Opens the tracking store and the experiment in it, and makes both if need be.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME win; the defaults are SQLite in the repository's
    root and EXPERIMENT.

    Returns:
        The experiment's id.
    """
    _be_quiet_and_quick()
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE}"
    mlflow.set_tracking_uri(store)
    if re.split(r"[:+]", store)[0] not in DATABASE_ENGINES:
        return _experiment(None)  # a server decides itself where the artifacts are
    # One process at a time: several that make MLflow's tables in an empty database at once fail.
    lock = ROOT / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=120):
        return _experiment(ARTIFACTS.as_uri())


def _experiment(artifacts: str | None) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    experiment = mlflow.get_experiment_by_name(name)
    if experiment is None:
        try:
            return mlflow.create_experiment(name, artifact_location=artifacts)
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Another process has made it on the server in this moment.
        experiment = mlflow.get_experiment_by_name(name)
        assert experiment is not None
    return experiment.experiment_id


def _be_quiet_and_quick() -> None:
    """Sets what the user has not: no chatter, and an end to waiting for a store after seconds."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # It raises what it logs, with the statement and a stack trace.
        logging.getLogger(database.__name__).setLevel(logging.CRITICAL)
    # By default a request is tried eight times, 120 s each, and a database ten times in 100 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    database.MAX_RETRY_COUNT = 1


class _GuardedRun:
    """A run whose trouble is told once on standard error and then ignored."""

    def __init__(self, network: str, params: Params, manifest: Manifest) -> None:
        """Names what is trained on what; nothing is logged before the context is entered."""
        self._network = network
        params_of_run = contents.counting_params(network, params)
        self._training = Training(network, params_of_run, manifest)
        self._alive = True
        self._run_id = ""

    def attempt(self, action: Callable[[], object]) -> None:
        """Does something with MLflow, unless an earlier attempt has failed."""
        if not self._alive:
            return
        try:
            action()
        except Exception as error:  # MLflow, SQLAlchemy, requests, the file system: anything
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._alive:
            message = (
                f"warning: MLflow at {mlflow.get_tracking_uri()} does not record this run further;"
                " the stage goes on, its files will be complete, and `make sync` records them"
                f" later: {first_line(error)}"
            )
            print(without_password(message), file=sys.stderr)
        self._alive = False

    def _end(self, status: str) -> None:
        """Ends a run that was started here, also after trouble."""
        if mlflow.active_run() is not None:
            try:
                mlflow.end_run(status)
            except Exception as error:
                self._give_up(error)


class TrainingRun(_GuardedRun):
    """The run of one training, as a context: parameters, tags and the figures of each epoch.

    The curves have the names that Keras gives them; MLflow's UI makes a section of its own of the
    metrics of each prefix, `speed/`, `system/` and `test/`.
    """

    def __init__(
        self,
        network: str,
        params: Params,
        manifest: Manifest,
        run_id: str = "",
        history: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Names what is trained on what, and the run and the epochs that it goes on from."""
        super().__init__(network, params, manifest)
        self._resumed = run_id
        self._history = history
        self._load = MachineLoad()

    def __enter__(self) -> Self:
        """Starts the run, or goes on with that of a training that was interrupted."""
        self.attempt(lambda: self._reopen() or self._begin())
        return self

    @property
    def run_id(self) -> str:
        """The run's id in the store; empty where it is not recorded."""
        return self._run_id if self._alive else ""

    def _reopen(self) -> bool:
        if not self._resumed:
            return False
        open_experiment()
        try:
            mlflow.start_run(run_id=self._resumed)
        except mlflow.MlflowException:  # another store, or it was deleted
            return False
        self._run_id = self._resumed
        return True

    def _begin(self) -> None:
        self._run_id = contents.start_run(open_experiment(), self._training, _origin())
        for row in self._history:
            _log_epoch(row)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run, as failed where the training was."""
        if kind is None:
            self._end("FINISHED")
        else:
            self._end("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Logs one epoch, and the load of the machine in it.

        Args:
            row: `epoch`, counted from 1, which becomes the step, and the epoch's figures.
            seconds: Time of the epoch, validation included.
            images_per_second: Rate of the training alone.
        """
        speed = {"speed/epoch_seconds": seconds, "speed/images_per_second": images_per_second}
        self.attempt(lambda: _log_epoch(row, speed | self._load.measured()))

    def log_files(self, model: Path, history: Path) -> None:
        """Logs the trained network and the history, and ties the run to the network's file."""

        def log() -> None:
            rows = contents.read_history(history)
            example = contents.example_picture(RECORDS_FOLDER)
            contents.log_training(rows, history)
            network = contents.load_network(model)
            contents.log_network(self._network, network, rows, example)
            mlflow.set_tag(contents.MODEL_TAG, file_md5(model))

        self.attempt(log)


class EvaluationRun(_GuardedRun):
    """The training's run, found by the network's file, as a context.

    Where the store lacks it (the model came from DVC's cache, or from another machine), a new run
    is made from what the files say.
    """

    def __init__(self, network: str, params: Params, manifest: Manifest, model: Path) -> None:
        """Names the network's file."""
        super().__init__(network, params, manifest)
        self._model = model

    def __enter__(self) -> Self:
        """Finds the run, or makes it; its status and duration stay the training's."""
        self.attempt(self._find_or_restore)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open any more, unless restoring failed."""
        self._end("FAILED")

    @property
    def run(self) -> Run:
        """The run as the store has it."""
        return mlflow.get_run(self._run_id)

    def log_results(self, evaluation: Evaluation) -> None:
        """Logs the test split's figures and their files."""
        self.attempt(lambda: contents.log_evaluation(self.run, evaluation))

    def _find_or_restore(self) -> None:
        experiment, md5 = open_experiment(), file_md5(self._model)
        flip = self._training.params["test_time_flip"]
        if run := contents.find_run(experiment, md5, flip):
            self._run_id = run.info.run_id
            return
        history = METRICS_FOLDER / f"{self._network}.history.csv"
        self._run_id = contents.restore_run(
            experiment,
            self._training,
            _origin(),
            model_md5=md5,
            model=contents.load_network(self._model),
            history=history if history.exists() else None,
            example=contents.example_picture(RECORDS_FOLDER),
        )


def _origin() -> Origin:
    """Where this process trains or evaluates."""
    experiment = os.environ.get("DVC_EXP_NAME", "")
    baseline = os.environ.get("DVC_EXP_BASELINE_REV", "")
    title = experiment or f"{datetime.now():%m-%d %H:%M}"
    return Origin(title, baseline or _git_commit(), experiment, baseline)


def _log_epoch(row: Mapping[str, float], others: Mapping[str, float] | None = None) -> None:
    curves = {name: value for name, value in row.items() if name != "epoch"}
    mlflow.log_metrics({**curves, **(others or {})}, step=int(row["epoch"]))


def first_line(error: BaseException) -> str:
    """What an error says, without what it says in further lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def without_password(message: str) -> str:
    """A message without the passwords of the addresses in it, scheme://user:password@host."""
    return re.sub(r"//[^/@\s]+@", "//***@", message)


def _git_commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
