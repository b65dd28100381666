"""What happens to a stage of `tests.stage_process`: called in its process before it starts."""

import os
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from stages.networks.conv_deconv import network as conv_deconv
from stages.params import NetworkParams
from stages.records import tfrecords
from stages.train import loop


def small_network(params: NetworkParams, image_size: int, num_classes: int) -> keras.Model:
    """Has all that a state consists of, batch statistics included, and is quickly traced."""
    images = keras.Input((image_size, image_size, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(images, keras.layers.Conv2D(num_classes, 1, dtype="float32")(x))


@dataclass(frozen=True)
class SmallNetwork:
    """No fault; `conv_deconv` is `small_network`, trained without MLflow unless `tracked`."""

    tracked: bool = field(default=False, kw_only=True)

    def __call__(self) -> None:
        conv_deconv.build = small_network
        if not self.tracked:
            os.environ["MLFLOW_TRACKING_URI"] = "nowhere://"  # refused at once, as a warning


@dataclass(frozen=True)
class Signal(SmallNetwork):
    """A signal when a moment comes for the n-th time, counted from 1; SIGKILL by default.

    Moments: `step` and `validation`, before one of them; `write`, half of an output's or a state's
    file is written; `replaced`, one has just been put in its place; `example`, before one is
    written to the records; `rename`, before a shard or the folder of records gets its name.
    """

    moment: str
    number: int
    signal: int = signal.SIGKILL

    def __call__(self) -> None:
        super().__call__()
        # As in a terminal; what starts in the background of a script inherits an ignored Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        owner, name = {
            "step": (loop.Trainer, "step"),
            "validation": (loop.Trainer, "validate"),
            "write": (os, "fsync"),
            "replaced": (Path, "replace"),
            "example": (tfrecords.ShardWriter, "write"),
            "rename": (Path, "rename"),
        }[self.moment]
        method, left = getattr(owner, name), self.number

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and self.moment == "write":
                file = f"/proc/self/fd/{arguments[0]}"
                os.truncate(file, Path(file).stat().st_size // 2)
            elif left == 0 and self.moment == "replaced":
                method(*arguments, **options)
            if left == 0:
                os.kill(os.getpid(), self.signal)
            return method(*arguments, **options)

        setattr(owner, name, counted)


@dataclass(frozen=True)
class Limit(SmallNetwork):
    """A limit in bytes to a resource of the process, on two cores.

    RLIMIT_FSIZE: to each file, so that writing fails half-way, as on a full disk. RLIMIT_DATA: to
    its memory; RLIMIT_AS would count addresses, of which TensorFlow reserves far more, and Linux
    ignores RLIMIT_RSS. It counts the whole stack of each thread, some for each core.
    """

    resource: int
    limit: int

    def __call__(self) -> None:
        super().__call__()
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
        resource.setrlimit(self.resource, (self.limit, self.limit))
