"""The saved state of a training: what a killed one goes on from.

It lies below .dvc/tmp, since DVC removes a stage's outputs before it runs the stage, and is named
after everything that decides the training, so that no training goes on from another's state.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf
import yaml
from filelock import FileLock, Timeout

from stages.params import Params
from stages.records.manifest import Manifest, file_sha256
from stages.stage import ROOT, replacing

PIPELINE_FILE = Path(__file__).resolve().parents[2] / "dvc.yaml"


@dataclass(frozen=True)
class TrainingState:
    """A training between two epochs; before the first, all of it is empty."""

    variables: Sequence[np.ndarray] = ()  # values of Trainer.variables
    best: Sequence[np.ndarray] = ()  # the network's weights of the best epoch
    history: Sequence[dict[str, Any]] = ()  # a row for each finished epoch
    run_id: str = ""  # the MLflow run; empty without one


class StateFile:
    """The state of one configuration, as a context that locks it; removed after success.

    A second training of the configuration warns, and neither reads nor writes the file.
    """

    def __init__(self, network: str, params: Params, manifest: Manifest) -> None:
        name = f"{network}-{configuration_digest(network, params, manifest)[:16]}"
        self.path = ROOT / ".dvc" / "tmp" / "training" / f"{name}.npz"
        self.state = TrainingState()
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
            if self.path.exists():
                self._read()
        except Timeout:
            _warn(
                "another training of the same configuration is running here; this one cannot be"
                " resumed if it is interrupted"
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock.is_locked and kind is None:
            self.path.unlink(missing_ok=True)
            # While it is held: who has it open already notices on locking that it is gone.
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _read(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                count, history, run_id = json.loads(str(arrays["details"]))
                values = [arrays[f"arr_{number}"] for number in range(len(arrays.files) - 1)]
            self.state = TrainingState(values[:count], values[count:], history, run_id)
        except Exception as error:  # damage is whatever NumPy, zip, zlib or JSON raises
            _warn(f"{self.path} cannot be read ({error}); the training starts from the beginning")

    def save(self, state: TrainingState) -> None:
        """Replace the saved state atomically; where that fails, warn and keep the old one."""
        if not self._lock.is_locked:
            return
        details = json.dumps([len(state.variables), state.history, state.run_id])
        try:
            with replacing(self.path) as new:
                np.savez(new, *state.variables, *state.best, details=details)
            self.state = state
        except OSError as error:
            _warn(
                f"the training's state cannot be saved as {self.path} ({error.strerror}); if it is"
                " interrupted it goes on from an earlier epoch"
            )


def configuration_digest(network: str, params: Params, manifest: Manifest) -> str:
    """SHA-256 of what dvc.yaml says a training depends on, and of the libraries' versions."""
    pipeline = PIPELINE_FILE.read_text(encoding="utf-8").replace("${item.network}", network)
    stage = yaml.safe_load(pipeline)["stages"]["train"]
    rooms = [PIPELINE_FILE.parent / room for room in stage["deps"]]
    files = {file for room in rooms for file in (room, *room.rglob("*.py"))}
    configuration = {
        "network": network,
        "params": params.model_dump(include=set(stage["params"])),
        "manifest": manifest.model_dump(),  # with the checksums of the records
        "code": [file_sha256(file) for file in sorted(files) if file.suffix == ".py"],
        "libraries": [keras.__version__, np.__version__, tf.__version__],
    }
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
