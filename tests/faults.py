"""What happens to a stage of `tests.stage_process`: called in its process before it starts."""

import functools
import os
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from stages.params import Params
from stages.records import tfrecords as records
from stages.records.manifest import Manifest
from stages.train import __main__ as train_stage
from stages.train import resume


def small_network(network: str, params: Params, manifest: Manifest) -> keras.Model:
    """Has what a state consists of, statistics of batches included, and is soon traced."""
    images = keras.Input((manifest.image_size, manifest.image_size, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(images, keras.layers.Conv2D(3, 1)(x))


@dataclass(frozen=True)
class SmallNetwork:
    """Nothing happens, but what is trained is `small_network`, without MLflow if not `tracked`."""

    tracked: bool = field(default=False, kw_only=True)

    def __call__(self) -> None:
        train_stage.build_network = small_network
        if not self.tracked:
            os.environ["MLFLOW_TRACKING_URI"] = "nowhere://"  # refused at once, as a warning


@dataclass(frozen=True)
class Kill(SmallNetwork):
    """SIGKILL when a moment comes for the n-th time, counted from 1.

    Moments: `batch`, a step is done; `validation`, a batch of it is; `epoch begin` and `epoch end`,
    before the state is saved and before the weights are compared with the best; `write`, half of an
    output's or a state's file is written; `replaced`, one has just been put in its place;
    `example`, before one is written to the records; `rename`, before a shard or the folder of
    records gets its name.
    """

    moment: str
    number: int

    def __call__(self) -> None:
        super().__call__()
        progress, keeper = train_stage.Progress, resume.StateKeeper
        owner, name = {
            "batch": (progress, "on_train_batch_end"),
            "validation": (progress, "on_test_batch_end"),
            "epoch begin": (keeper, "on_epoch_begin"),
            "epoch end": (keeper, "on_epoch_end"),
            "write": (os, "fsync"),
            "replaced": (Path, "replace"),
            "example": (records.ShardWriter, "write"),
            "rename": (Path, "rename"),
        }[self.moment]
        method, left = getattr(owner, name), self.number

        @functools.wraps(method)
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and self.moment == "write":
                file = f"/proc/self/fd/{arguments[0]}"
                os.truncate(file, Path(file).stat().st_size // 2)
            elif left == 0 and self.moment == "replaced":
                method(*arguments, **options)
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments, **options)

        setattr(owner, name, counted)


@dataclass(frozen=True)
class DroppedTermination(SmallNetwork):
    """SIGTERM in a destructor, where Python drops what its handler raises, after some steps."""

    steps: int

    def __call__(self) -> None:
        super().__call__()
        method, left = train_stage.Progress.on_train_batch_end, self.steps

        class Destroyed:
            def __del__(self) -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                sum(range(10))  # the handler runs between two steps of Python

        def counted(*arguments: Any, **options: Any) -> None:
            nonlocal left
            left -= 1
            method(*arguments, **options)
            if left == 0:
                Destroyed()

        setattr(train_stage.Progress, method.__name__, counted)


@dataclass(frozen=True)
class MemoryLimit(SmallNetwork):
    """What the process may have of memory of its own, in bytes, on two cores.

    Of the limits that need no cgroup this one is nearest to what is used: RLIMIT_AS counts the
    addresses, of which TensorFlow reserves far more, and Linux does nothing for RLIMIT_RSS. It
    counts the whole stack of each thread, and TensorFlow starts some for each core.
    """

    limit: int

    def __call__(self) -> None:
        super().__call__()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
        resource.setrlimit(resource.RLIMIT_DATA, (self.limit, self.limit))


@dataclass(frozen=True)
class FileSizeLimit(SmallNetwork):
    """No file may grow over a number of bytes: as on a full disk, writing fails half-way."""

    limit: int

    def __call__(self) -> None:
        super().__call__()
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))
