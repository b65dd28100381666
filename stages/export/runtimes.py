"""Exports as they are run: by TensorFlow, the LiteRT interpreter and ONNX Runtime."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import onnxruntime
import tensorflow as tf

from stages.export.litert import LiteRT
from stages.networks.model_file import prediction_function

Pixels = npt.NDArray[np.uint8]
# From images uint8 [batch, size, size, 3] to classes uint8 [batch, size, size].
Classify = Callable[[Pixels], Pixels]


def classify_with_keras(model: keras.Model) -> Classify:
    """The network as `evaluate` runs it, compiled."""
    network = tf.function(prediction_function(model, False), reduce_retracing=True, autograph=False)
    return lambda images: _classes(network(tf.constant(images)).numpy())


def load_export(kind: str, path: Path) -> Classify:
    """Loads an export.

    Args:
        kind: Its format, a key of export_files.FILES.
        path: Its file or folder.
    """
    if kind == "saved_model":
        # Kept whole: a function of it does not keep the variables that it reads.
        loaded = tf.saved_model.load(str(path))
        return lambda images: loaded.serve(tf.constant(images))["mask"].numpy()
    if kind == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: _classes(session.run(None, {name: images.astype(np.float32)})[0])
    network = LiteRT(path)
    # One by one, as on a phone: XNNPACK cannot change the batch of every network.
    return lambda images: np.stack([_classes(network.logits(image)) for image in images])


def median_latencies(
    classifiers: Mapping[str, Classify], image: Pixels, rounds: int
) -> dict[str, float]:
    """How long each takes for one picture, measured in turn so that all see the same machine.

    Args:
        classifiers: By name.
        image: uint8 [1, size, size, 3].
        rounds: How often.

    Returns:
        By name, the median in milliseconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in classifiers}
    for number in range(rounds + 1):
        for name, classify in classifiers.items():
            start = time.perf_counter()
            classify(image)
            if number:  # the first round may compile, or allocate memory
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def _classes(logits: npt.NDArray[np.float32]) -> Pixels:
    return logits.argmax(axis=-1).astype(np.uint8)
