"""A trained network as a file, and the function that it is used by."""

import functools
import json
import math
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from stages.stage import StageError, replacing


def save_model(model: keras.Model, path: Path) -> None:
    """Write a functional model without its optimizer as .keras, atomically.

    The same weights give the same bytes: of what Keras writes, the time is left out, and memory
    addresses of shared objects become numbers in their order.
    """
    # A model that was never compiled has no optimizer state: a third of the size.
    bare = keras.Model(model.input, model.output, name=model.name)
    numbers: dict[bytes, int] = {}

    def renumber(match: re.Match[bytes]) -> bytes:
        return match[1] + str(numbers.setdefault(match[2], len(numbers) + 1)).encode()

    with tempfile.TemporaryDirectory() as scratch:
        stamped = Path(scratch) / path.name
        bare.save(stamped)
        with (
            replacing(path) as plain,
            zipfile.ZipFile(stamped) as source,
            zipfile.ZipFile(plain, "w") as target,
        ):
            for name in sorted(source.namelist()):
                content = source.read(name)
                if name == "metadata.json":
                    content = json.dumps(json.loads(content) | {"date_saved": ""}).encode()
                elif name == "config.json":
                    content = re.sub(rb'("shared_object_id": )(\d+)', renumber, content)
                target.writestr(zipfile.ZipInfo(name), content)  # dated 1980


def load_model(path: Path) -> keras.Model:
    """Read a network that `save_model` wrote, in Keras' safe mode.

    Raises StageError if there is no such file, or no Keras model that safe mode accepts in it.
    """
    if not path.is_file():
        raise StageError(
            f"there is no {path}: `dvc pull` fetches what was trained elsewhere, and `make repro`"
            " trains it here"
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise  # the file may be all right
    except Exception as error:  # damage is whatever JSON, HDF5, zlib or a layer raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(f"{path} is not a model that can be loaded safely: {reason}") from error


def prediction_function(model: keras.Model, flip: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """From images [batch, height, width, 3] to logits [batch, height, width, class].

    With `flip`, of the mean of the probabilities of an image and of its mirror image.
    """

    def both(images: tf.Tensor) -> tf.Tensor:
        seen = tf.nn.log_softmax(model(images, training=False))
        mirrored = tf.nn.log_softmax(model(tf.reverse(images, [2]), training=False))
        # Of logarithms, because a probability of nearly nothing is 0 in float32.
        return tf.experimental.numpy.logaddexp(seen, tf.reverse(mirrored, [2])) - math.log(2)

    return both if flip else functools.partial(model, training=False)
