"""MLflow: one run for each trained network, to which `evaluate` adds the test figures.

The files that a stage declares hold everything; MLflow is a view of them. So whatever goes wrong
here is a warning, and never costs a training.
"""

import csv
import hashlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlflow
import numpy as np
import numpy.typing as npt
from filelock import FileLock
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.models import ModelSignature
from mlflow.store.db import utils as database
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.types import Schema, TensorSpec

from stages.manifest import Manifest
from stages.params import Params

# In `dvc exp run --temp` and in the queue the working directory is a copy that is thrown away;
# DVC_ROOT is the repository itself.
ROOT = Path(os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[1])
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
    # By default a request is tried eight times, 120 s each, and a database ten times in 100 s.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    database.MAX_RETRY_COUNT = 1


class _GuardedRun:
    """A run whose trouble is told once on standard error and then ignored."""

    def __init__(self, network: str, params: Params, manifest: Manifest) -> None:
        """Names what is trained on what; nothing is logged before the context is entered."""
        self._network = network
        self._params = params
        self._manifest = manifest
        self._alive = True
        self._run_id = ""

    def _try(self, action: Callable[[], object]) -> None:
        if not self._alive:
            return
        try:
            action()
        except Exception as error:  # MLflow, SQLAlchemy, requests, the file system: anything
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._alive:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            message = (
                f"warning: MLflow at {mlflow.get_tracking_uri()} does not record this run further;"
                f" the stage goes on and its files will be complete: {reason}"
            )
            # An address may hold a password: scheme://user:password@host.
            print(re.sub(r"//[^/@\s]+@", "//***@", message), file=sys.stderr)
        self._alive = False

    def _start(self, tags: Mapping[str, str]) -> None:
        """Starts a run with everything that is known before the training."""
        experiment = os.environ.get("DVC_EXP_NAME")
        baseline = os.environ.get("DVC_EXP_BASELINE_REV")
        dataset = f"{self._manifest.dataset} {self._manifest.version}"
        all_tags = {
            "network": self._network,
            "dataset": dataset,
            "dvc.stage": f"train@{self._network}",
            "dvc.experiment": experiment,
            "dvc.baseline": baseline,
            "mlflow.source.git.commit": baseline or _git_commit(),
            **tags,
        }
        run = mlflow.start_run(
            experiment_id=open_experiment(),
            # Short, because the table of runs and the legends cut it off.
            run_name=f"{self._network} · {experiment or f'{datetime.now():%m-%d %H:%M}'}",
            tags={key: value for key, value in all_tags.items() if value},
        )
        self._run_id = run.info.run_id
        source = CodeDatasetSource({"mlflow.source.name": "stages/prepare.py"})
        records_md5 = hashlib.md5(self._manifest.model_dump_json().encode()).hexdigest()  # noqa: S324
        data = MetaDataset(source, dataset, records_md5)  # type: ignore[abstract]  # it is not
        mlflow.log_input(data, context="training")
        splits = self._manifest.splits.items()
        mlflow.log_params(
            {"network": self._network}
            | _flat(self._params.model_dump(exclude={"networks", *self._params.groups()}))
            | _flat(self._params.network(self._network).model_dump())
            | {f"{name}_examples": split.examples for name, split in splits}
        )

    def _log_training(self, model: Path, history: list[dict[str, float]]) -> None:
        """Logs the network and its best epoch, and ties the run to the network's file."""
        mlflow.set_tag("model.md5", file_md5(model))
        best = min(history, key=lambda row: row["val_loss"], default=None)
        if best is not None:
            # The table of runs shows the last epoch's figures; the network is that of the best.
            figures = ("epoch", "val_loss", "val_accuracy", "val_mean_iou")
            mlflow.log_metrics({f"best_{name}": best[name] for name in figures if name in best})
        _log_model(self._network, model, step=int(best["epoch"]) if best is not None else 0)

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
    metrics of each prefix, `speed/` and `test/`.
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

    def __enter__(self) -> Self:
        """Starts the run, or goes on with that of a training that was interrupted."""
        self._try(lambda: self._reopen() or self._begin())
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
        self._start({})
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
        """Logs one epoch.

        Args:
            row: `epoch`, counted from 1, which becomes the step, and the epoch's figures.
            seconds: Time of the epoch, validation included.
            images_per_second: Rate of the training alone.
        """
        speed = {"speed/epoch_seconds": seconds, "speed/images_per_second": images_per_second}
        self._try(lambda: _log_epoch(row, speed))

    def log_files(self, model: Path, history: Path) -> None:
        """Logs the trained network and the history, and ties the run to the network's file."""

        def log() -> None:
            mlflow.log_artifact(str(history))
            self._log_training(model, _read_history(history))

        self._try(log)


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
        self._try(lambda: self._find() or self._restore())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is open any more, unless restoring failed."""
        self._end("FAILED")

    def log_results(self, figures: Mapping[str, float], report: Path) -> None:
        """Logs the test split's figures, each as `test/<name>`, and their file."""

        def log() -> None:
            tests = {f"test/{name}": value for name, value in figures.items()}
            mlflow.log_metrics(tests, run_id=self._run_id)
            mlflow.log_artifact(str(report), run_id=self._run_id)

        self._try(log)

    def log_picture(self, picture: npt.NDArray[np.uint8], file: str) -> None:
        """Logs a picture, uint8 [height, width, 3], as a PNG of the name `file`."""
        self._try(lambda: mlflow.MlflowClient().log_image(self._run_id, picture, file))

    def _find(self) -> bool:
        runs = mlflow.search_runs(
            [open_experiment()],
            filter_string=f"tags.`model.md5` = '{file_md5(self._model)}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
            output_format="list",
        )
        self._run_id = runs[0].info.run_id if runs else ""
        return bool(runs)

    def _restore(self) -> None:
        self._start({"restored": "true"})
        history = METRICS_FOLDER / f"{self._network}.history.csv"
        rows = _read_history(history) if history.exists() else []
        for row in rows:
            _log_epoch(row)
        if rows:
            mlflow.log_artifact(str(history))
        self._log_training(self._model, rows)
        mlflow.end_run()


def file_md5(path: Path) -> str:
    """The MD5 checksum of a file in hexadecimal: what DVC has in dvc.lock."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _log_epoch(row: Mapping[str, float], others: Mapping[str, float] | None = None) -> None:
    curves = {name: value for name, value in row.items() if name != "epoch"}
    mlflow.log_metrics({**curves, **(others or {})}, step=int(row["epoch"]))


def _log_model(name: str, path: Path, step: int) -> None:
    # The stages that get here have TensorFlow loaded; others need not wait for it.
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    def schema(tensor: keras.KerasTensor) -> Schema:
        shape = [-1 if size is None else size for size in tensor.shape]
        return Schema([TensorSpec(np.dtype("float32"), shape)])

    model = keras.models.load_model(path, compile=False)
    mlflow.keras.log_model(
        model,
        name=name,
        signature=ModelSignature(schema(model.inputs[0]), schema(model.outputs[0])),
        # Stated, because to find them out MLflow would load the model in a new process for seconds.
        # Any build of TensorFlow will do; `tensorflow` is the one that every platform has.
        pip_requirements=[f"{part.__name__}=={part.__version__}" for part in (keras, np, tf)],
        step=step,
    )


def _read_history(path: Path) -> list[dict[str, float]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _git_commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
