"""What a killed training goes on from: its state after the last epoch that it finished.

The state lies below .dvc/tmp, since DVC removes a stage's outputs before it runs the stage. Its
folder is named after everything that decides the training, so that a training never goes on from
another configuration's state.
"""

import hashlib
import json
import math
import shutil
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import yaml
from filelock import FileLock, Timeout

from stages.params import Params
from stages.records.manifest import RECORDS_FOLDER, Manifest, file_sha256
from stages.stage import ROOT, replacing

# Says what the stage `train` depends on.
PIPELINE_FILE = Path(__file__).resolve().parents[2] / "dvc.yaml"


@dataclass(frozen=True)
class TrainingState:
    """A training between two epochs.

    Attributes:
        variables: The values of the model's and the optimizer's variables.
        best: The model's weights of the best epoch.
        history: A row for each finished epoch.
        run_id: The MLflow run; empty without one.
    """

    variables: Sequence[npt.NDArray]
    best: Sequence[npt.NDArray]
    history: list[dict[str, Any]]
    run_id: str


class ResumePoint:
    """The saved state of one configuration, as a context that no other training shares.

    Where a training of the same configuration is under way in this repository, this one neither
    reads nor writes the state, and says so.
    """

    def __init__(self, network: str, params: Params, manifest: Manifest) -> None:
        """Names the configuration."""
        name = f"{network}-{configuration_digest(network, params, manifest)[:16]}"
        self._folder = ROOT / ".dvc" / "tmp" / "training" / name
        self._file = self._folder / "state.npz"
        self._lock = FileLock(self._folder.with_suffix(".lock"), timeout=0)
        self._owned = False
        self.state: TrainingState | None = None  # what was saved last

    @property
    def finished_epochs(self) -> int:
        """How many epochs a training need not run again."""
        return len(self.state.history) if self.state else 0

    def __enter__(self) -> Self:
        """Takes the state for this training alone."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
            self._owned = True
            self.state = self._load()
        except Timeout:
            print(
                "warning: another training of the same configuration is under way here; this one"
                " cannot be resumed if it is interrupted",
                file=sys.stderr,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the state free, and removes it where the training has succeeded."""
        if self._owned:
            if kind is None:
                shutil.rmtree(self._folder, ignore_errors=True)
            if not self._file.exists():
                # While it is held: who opened it before sees on taking it that it has no name.
                Path(self._lock.lock_file).unlink(missing_ok=True)
                shutil.rmtree(self._folder, ignore_errors=True)
            self._lock.release()

    def _load(self) -> TrainingState | None:
        if not self._file.exists():
            return None
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                details = json.loads(arrays["details"].tobytes())
                return TrainingState(
                    [arrays[f"variable-{index}"] for index in range(details["variables"])],
                    [arrays[f"best-{index}"] for index in range(details["best"])],
                    details["history"],
                    details["run_id"],
                )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            print(
                f"warning: {self._file} cannot be read ({error}); the training begins anew",
                file=sys.stderr,
            )
            return None

    def save(self, state: TrainingState) -> None:
        """Replaces the saved state in one step: a kill or a full disk leaves the one before."""
        if not self._owned:
            return
        details = {
            "variables": len(state.variables),
            "best": len(state.best),
            "history": state.history,
            "run_id": state.run_id,
        }
        arrays = {"details": np.frombuffer(json.dumps(details).encode(), np.uint8)}
        arrays |= {f"variable-{index}": value for index, value in enumerate(state.variables)}
        arrays |= {f"best-{index}": value for index, value in enumerate(state.best)}
        try:
            with replacing(self._file) as new:
                np.savez(new, allow_pickle=False, **arrays)
            self.state = state
        except OSError as error:
            print(
                f"warning: the training's state cannot be saved in {self._folder}"
                f" ({error.strerror}); if it is interrupted it goes on from an earlier epoch",
                file=sys.stderr,
            )


def configuration_digest(network: str, params: Params, manifest: Manifest) -> str:
    """SHA-256 of all that decides a training: parameters, records, code and libraries.

    Parameters and code are those that dvc.yaml lists for the stage: what DVC does not train anew
    for does not begin a training anew either.
    """
    stage = yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8"))["stages"]["train"]
    keys, code = (
        [entry.replace("${item.network}", network) for entry in stage[part]]
        for part in ("params", "deps")
    )
    configuration = {
        "network": network,
        "params": params.model_dump(include=set(keys)),
        "manifest": manifest.model_dump(),
        "code": {
            str(file.relative_to(PIPELINE_FILE.parent)): file_sha256(file)
            for entry in code
            if entry != str(RECORDS_FOLDER)  # the manifest has its checksums
            for file in _modules(PIPELINE_FILE.parent / entry)
        },
        "libraries": [keras.__version__, np.__version__, tf.__version__],
    }
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def _modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


class StateKeeper(keras.callbacks.Callback):
    """Keeps the best weights by validation loss, and saves the state between two epochs.

    It comes after the callbacks that put averaged weights in place.
    """

    def __init__(
        self, point: ResumePoint | None, history: list[dict[str, Any]], run_id: str
    ) -> None:
        """Takes where to save to, and the history that another callback fills."""
        super().__init__()
        self.best: Sequence[npt.NDArray] = point.state.best if point and point.state else []
        self._point = point
        self._history = history
        self._run_id = run_id
        self._first = len(history)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Saves the state after the epoch before; the weights that train are in place again."""
        if self._point is not None and epoch > self._first:
            values = [variable.numpy() for variable in all_variables(self.model)]
            history = [dict(row) for row in self._history]
            self._point.save(TrainingState(values, self.best, history, self._run_id))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keeps the weights if they are the best so far; the history has the epoch already."""
        *before, last = [row["val_loss"] for row in self._history]
        if last < min(before, default=math.inf):
            self.best = self.model.get_weights()


def all_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables of a compiled model and of its optimizer, in an order that does not change."""
    return [*model.variables, *model.optimizer.variables]


def restore(model: keras.Model, state: TrainingState) -> None:
    """Puts a state's values into a compiled model whose optimizer has its variables."""
    for variable, value in zip(all_variables(model), state.variables, strict=True):
        variable.assign(value)
