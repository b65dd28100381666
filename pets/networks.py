"""A trained network, ready to be used: its LiteRT export, or Keras where there is none."""

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.networks.trained import ADVICE, check_network
from stages.stage import StageError

CORES = os.cpu_count() or 1
Array = npt.NDArray[np.float32]


class Network(NamedTuple):
    """A network and how it is run."""

    runtime: str
    image_size: int
    # From uint8 [image_size, image_size, 3] to [image_size, image_size, class]; from any thread.
    probabilities: Callable[[npt.NDArray[np.uint8]], Array]


def keras_network(path: Path) -> Network:
    """The .keras file, as `evaluate` runs it. Importing TensorFlow takes seconds."""
    check_network(path)  # before the seconds that TensorFlow takes
    import tensorflow as tf  # noqa: PLC0415

    from stages.networks.model_file import load_model, prediction_function  # noqa: PLC0415

    model = load_model(path)
    logits = prediction_function(model, False)
    probabilities = tf.function(lambda images: tf.nn.softmax(logits(images)))
    return Network(
        "keras", model.input_shape[1], lambda image: probabilities(image[None]).numpy()[0]
    )


def litert_network(path: Path) -> Network:
    """The float32 export on all cores, without TensorFlow."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    try:
        run = Interpreter(os.fspath(path), num_threads=CORES).get_signature_runner()
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{path} is missing or broken: {reason}: {ADVICE}") from error
    lock = threading.Lock()  # an interpreter has one input

    def probabilities(image: npt.NDArray[np.uint8]) -> Array:
        with lock:
            logits = run(image=image[None].astype(np.float32))["logits"][0]
        powers: Array = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    size = int(run.get_input_details()["image"]["shape"][1])
    return Network("litert", size, probabilities)


def load_network(models: Path, name: str, runtime: str = "auto") -> Network:
    """Loads the network `name` of a folder, or raises a StageError.

    The runtime is "keras"; "litert"; or "auto" for the export if it is of this very network.
    """
    model, folder = models / f"{name}.keras", models / f"{name}.export"
    export, source = folder / f"{name}.float32.tflite", folder / "source.json"
    if runtime == "litert":
        return litert_network(export)
    # Without the network's own file there is nothing to compare the export with.
    if runtime == "auto" and export.is_file() and model.is_file():
        try:
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
            if source.is_file() and digest.encode() in source.read_bytes():
                return litert_network(export)
            remedy = f"`dvc repro export@{name}` makes it again"
            raise StageError(f"{folder} was not made from this {model.name}; {remedy}")
        except StageError as error:
            print(f"pets: Keras runs, which takes seconds to start: {error}", file=sys.stderr)
    return keras_network(model)
