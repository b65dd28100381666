"""A trained network as a file, and the function that it is used by."""

import functools
import json
import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from stages.networks.trained import check_network
from stages.stage import StageError, replacing

# The earliest time that a zip archive can hold.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a functional model without its optimizer as .keras, atomically.

    The same weights give the same bytes: the time and the memory addresses of shared objects,
    which Keras writes into its archive, are left out and numbered.
    """
    # A model that was never compiled has no optimizer state: a third of the size.
    bare = keras.Model(model.input, model.output, name=model.name)
    stamped = path.with_suffix(".tmp.keras")
    try:
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
                    content = _renumbered(content)
                target.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), content)
    finally:
        stamped.unlink(missing_ok=True)


def _renumbered(config: bytes) -> bytes:
    numbers: dict[bytes, int] = {}

    def number(match: re.Match[bytes]) -> bytes:
        return match[1] + str(numbers.setdefault(match[2], len(numbers) + 1)).encode()

    return re.sub(rb'("shared_object_id": )(\d+)', number, config)


def load_model(path: Path) -> keras.Model:
    """Reads a network that `save_model` wrote, in Keras' safe mode.

    Raises:
        StageError: There is no such file, or it is not a Keras model that safe mode accepts.
    """
    check_network(path)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (MemoryError, tf.errors.ResourceExhaustedError):
        raise  # the file may be all right
    # Damage is whatever JSON, HDF5, zlib or a layer raises.
    except Exception as error:
        raise StageError(
            f"{path} is not a model that can be loaded safely:"
            f" {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error


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
