"""MLflow: one run for each trained network, opened again by `evaluate`.

The files that a stage declares hold everything; MLflow is a view of them. So whatever goes wrong
here is a warning, and never costs a training.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import mlflow
import numpy as np
import numpy.typing as npt
from filelock import FileLock
from mlflow.entities import Run

from stages.manifest import Manifest
from stages.params import Params

# In `dvc exp run --temp` and in the queue the working directory is a copy that is thrown away;
# DVC_ROOT is the repository itself.
ROOT = Path(os.environ.get("DVC_ROOT") or Path(__file__).resolve().parents[1])
STORE = ROOT / "mlflow.db"
ARTIFACTS = ROOT / "mlartifacts"
EXPERIMENT = "pet-segmentation"


def open_experiment() -> str:
    """Opens the tracking store and the experiment in it, and makes both if need be.

    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME win; the defaults are SQLite in the repository's
    root and EXPERIMENT. One process at a time: MLflow's first start on an empty database fails when
    several do it at once.

    Returns:
        The experiment's id.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    embedded = "MLFLOW_TRACKING_URI" not in os.environ
    if embedded:
        # Seconds that a writer waits while another run writes.
        mlflow.set_tracking_uri(f"sqlite:///{STORE}?timeout=60")
    lock = ROOT / ".dvc" / "tmp" / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        experiment = mlflow.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        location = ARTIFACTS.as_uri() if embedded else None
        return mlflow.create_experiment(name, artifact_location=location)


class _GuardedRun:
    """A run whose trouble is told once on standard error and then ignored."""

    def __init__(self) -> None:
        self._alive = True

    def _try(self, action: Callable[[], None]) -> None:
        if not self._alive:
            return
        try:
            action()
        except Exception as error:  # MLflow, SQLAlchemy, requests, the file system: anything
            self._alive = False
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(
                f"warning: MLflow at {mlflow.get_tracking_uri()} does not record this run further:"
                f" {reason}",
                file=sys.stderr,
            )

    def _end(self, status: str) -> None:
        self._try(lambda: mlflow.end_run(status))


class TrainingRun(_GuardedRun):
    """The run of one training, as a context: parameters, tags and the figures of each epoch."""

    def __init__(self, network: str, params: Params, manifest: Manifest) -> None:
        """Names what is trained on what; nothing is logged before the context is entered."""
        super().__init__()
        self._network = network
        self._params = params
        self._manifest = manifest

    def __enter__(self) -> Self:
        """Starts the run."""
        self._try(lambda: _start(self._network, self._params, self._manifest))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the run, as failed where the training was."""
        self._end("FINISHED" if kind is None else "FAILED")

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Logs one epoch.

        Args:
            row: `epoch`, counted from 1, which becomes the step, and the epoch's figures.
            seconds: Time of the epoch, validation included.
            images_per_second: Rate of the training alone.
        """
        figures = {key: value for key, value in row.items() if key != "epoch"}
        figures |= {"epoch_seconds": seconds, "images_per_second": images_per_second}
        self._try(lambda: mlflow.log_metrics(figures, step=int(row["epoch"])))

    def log_files(self, model: Path, history: Path) -> None:
        """Logs the trained network and the history, and ties the run to the network's file."""

        def log() -> None:
            mlflow.set_tags({"model.md5": file_md5(model)})
            mlflow.log_artifact(str(history))
            _log_model(model)

        self._try(log)


class EvaluationRun(_GuardedRun):
    """The training's run, found by the network's file and opened again, as a context.

    Where the store lacks it (the model came from DVC's cache, or from another machine), a new run
    is made from what the files say.
    """

    def __init__(self, network: str, params: Params, manifest: Manifest, model: Path) -> None:
        """Names the network's file."""
        super().__init__()
        self._network = network
        self._params = params
        self._manifest = manifest
        self._model = model

    def __enter__(self) -> Self:
        """Opens the run."""

        def start() -> None:
            run = _find(file_md5(self._model))
            if run is not None:
                mlflow.start_run(run.info.run_id)
                return
            _start(self._network, self._params, self._manifest)
            mlflow.set_tags({"model.md5": file_md5(self._model), "restored": "true"})
            _log_model(self._model)

        self._try(start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the run; it stays finished where the training was."""
        self._end("FINISHED")

    def log_results(self, figures: Mapping[str, float], report: Path) -> None:
        """Logs the test split's figures, each as `test_<name>`, and their file."""

        def log() -> None:
            mlflow.log_metrics({f"test_{name}": value for name, value in figures.items()})
            mlflow.log_artifact(str(report))

        self._try(log)

    def log_picture(self, picture: npt.NDArray[np.uint8], file: str) -> None:
        """Logs a picture, uint8 [height, width, 3], as a PNG of the name `file`."""
        self._try(lambda: mlflow.log_image(picture, file))


def file_md5(path: Path) -> str:
    """The MD5 checksum of a file in hexadecimal: what DVC has in dvc.lock."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _start(network: str, params: Params, manifest: Manifest) -> None:
    experiment = os.environ.get("DVC_EXP_NAME", "")
    mlflow.start_run(
        experiment_id=open_experiment(),
        run_name=f"{network} · {experiment}" if experiment else network,
        tags={
            "network": network,
            "dataset": f"{manifest.dataset} {manifest.version}",
            "dvc.stage": f"train@{network}",
            "dvc.experiment": experiment,
            "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
            "mlflow.source.git.commit": _git_commit(),
        },
    )
    mlflow.log_params(
        {"network": network}
        | _flat(params.model_dump(exclude={"networks", *params.groups()}))
        | _flat(params.network(network).model_dump())
    )
    counts = {f"{name}_examples": split.examples for name, split in manifest.splits.items()}
    mlflow.log_params(counts)


def _find(model_md5: str) -> Run | None:
    runs = mlflow.search_runs(
        [open_experiment()],
        filter_string=f"tags.`model.md5` = '{model_md5}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return runs[0] if runs else None


def _log_model(path: Path) -> None:
    # Stated, because to find them out MLflow would load the model in a new process for seconds.
    import keras  # noqa: PLC0415

    mlflow.keras.log_model(
        keras.models.load_model(path, compile=False),
        name="model",
        pip_requirements=[f"{name}=={version(name)}" for name in ("keras", "numpy")],
    )


def _git_commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
