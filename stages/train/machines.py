"""Training on several machines: the cluster of TF_CONFIG, in which worker 0 alone writes."""

import json
import os
import re
from typing import Any

import numpy as np
import tensorflow as tf

from stages.params import Params
from stages.stage import StageError

_FORM = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
# What TensorFlow raises where another machine's process has ended.
MACHINE_GONE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


def worker_index(params: Params) -> int:
    """This machine's place in TF_CONFIG, 0 without `multi_worker`; StageError if it is wrong."""
    if params.distribution != "multi_worker":
        return 0
    value = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(value)
        workers, task = config["cluster"]["worker"], config["task"]
        addresses = [re.fullmatch(r"[^/]+:\d+", worker) for worker in workers]
        if task["type"] == "worker" and all(addresses):
            return range(len(workers)).index(task["index"])
    except (LookupError, TypeError, ValueError):
        pass
    raise StageError(f"TF_CONFIG: {value[:300]!r}: expected {_FORM}")


def join_workers(configuration: str) -> tf.distribute.Strategy:
    """Wait for all machines of TF_CONFIG; before any operation of TensorFlow in the process.

    Raises StageError unless the configuration, a hexadecimal digest, is worker 0's.
    """
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    digest = np.int64(int(configuration[:15], 16))
    if value_of_worker_0(strategy, digest) != digest:
        raise StageError(
            "code, parameters, records or library versions here are not those of worker 0: check"
            " out and `dvc pull` the same commit on all machines"
        )
    return strategy


def value_of_worker_0(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Worker 0's value, on every machine; the shape and dtype must be the same on all."""
    with strategy.scope():
        return tf.Variable(value).numpy()  # created with the first machine's value everywhere
