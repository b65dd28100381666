"""A trained network, ready to be used: its LiteRT export, or Keras where there is none."""

import hashlib
import os
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.networks.trained import ADVICE, check_network
from stages.stage import StageError

# The processors that this process may use; macOS and Windows only tell how many there are.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class KerasNetwork:
    """What `train` wrote, as `evaluate` runs it. Importing TensorFlow takes seconds."""

    runtime = "keras"

    def __init__(self, path: Path, flip: bool = False) -> None:
        """Loads models/<network>.keras; as of `load_network`."""
        check_network(path)  # before the seconds that TensorFlow takes
        import tensorflow as tf  # noqa: PLC0415

        from stages.networks.model_file import load_model, prediction_function  # noqa: PLC0415

        model = load_model(path)
        self.image_size: int = model.input_shape[1]
        logits = prediction_function(model, flip)
        self._probabilities = tf.function(lambda images: tf.nn.softmax(logits(images)))

    def probabilities(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """From an image [image_size, image_size, 3] to [image_size, image_size, class]."""
        found: npt.NDArray[np.float32] = self._probabilities(image[None]).numpy()[0]
        return found


class LiteRTNetwork:
    """A float32 export on all cores, without TensorFlow."""

    runtime = "litert"

    def __init__(self, path: Path, flip: bool = False) -> None:
        """Loads <network>.float32.tflite; as of `load_network`."""
        if not path.is_file():
            raise StageError(f"there is no {path}: {ADVICE}")
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

        try:
            self._interpreter = Interpreter(os.fspath(path), num_threads=CORES)
            self._interpreter.allocate_tensors()
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise StageError(f"{path} is not a LiteRT network: {reason}") from error
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        self.image_size = int(self._input["shape"][1])
        self._flip = flip
        self._lock = threading.Lock()  # an interpreter has one input

    def probabilities(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """As of `KerasNetwork`; from any thread."""
        found = self._one(image)
        if self._flip:
            found = (found + self._one(image[:, ::-1])[:, ::-1]) / np.float32(2)
        return found

    def _one(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with self._lock:
            self._interpreter.set_tensor(self._input["index"], image[None].astype(np.float32))
            self._interpreter.invoke()
            logits = self._interpreter.get_tensor(self._output["index"])[0]
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        found: npt.NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
        return found


Network = KerasNetwork | LiteRTNetwork


def load_network(models: Path, name: str, runtime: str = "auto", flip: bool = False) -> Network:
    """Loads the network `name` of a folder, or raises a StageError.

    Args:
        models: The folder.
        name: The network's name.
        runtime: "keras"; "litert"; or "auto" for the export if it was made from this very network.
        flip: Whether to average over each image and its mirror image.
    """
    model, folder = models / f"{name}.keras", models / f"{name}.export"
    export = folder / f"{name}.float32.tflite"
    if runtime == "litert":
        return LiteRTNetwork(export, flip)
    # Without the network's own file there is nothing to compare the export with.
    if runtime == "auto" and export.is_file() and model.is_file():
        try:
            if _is_made_from(folder, model):
                return LiteRTNetwork(export, flip)
            remedy = f"`dvc repro export@{name}` makes it again"
            raise StageError(f"{folder} was not made from this {model.name}; {remedy}")
        except StageError as error:
            print(f"pets: Keras runs, which takes seconds to start: {error}", file=sys.stderr)
    return KerasNetwork(model, flip)


def _is_made_from(folder: Path, model: Path) -> bool:
    """Whether an export's source.json has the checksum of a network's file."""
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = folder / "source.json"
    return source.is_file() and digest in source.read_text(encoding="utf-8", errors="replace")
