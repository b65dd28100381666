"""The devices of a training, and how a batch is shared among them."""

import keras
import tensorflow as tf

from stages.params import Params
from stages.stage import StageError


def prepare_devices(params: Params) -> None:
    """Seeds every generator and sets precision, determinism and GPU memory growth."""
    keras.utils.set_random_seed(params.seed)
    keras.mixed_precision.set_global_policy(params.precision)
    tf.config.experimental.enable_op_determinism()
    for device in tf.config.list_physical_devices("GPU"):
        # Otherwise TensorFlow takes all of the GPU's memory at once.
        tf.config.experimental.set_memory_growth(device, True)


def strategy(params: Params) -> tf.distribute.Strategy:
    """One device, or with `mirrored` all GPUs of the machine (its CPUs where there is none)."""
    if params.distribution == "none":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def check_shares(examples: int, split: str, batch_size: int, devices: int) -> None:
    """Checks that every replica gets an image of every batch: a loss of none is not a number.

    Raises:
        StageError: A batch, of `batch_size` on all devices together or the smaller last one, is
            too small for this many devices.
    """
    for size in {min(batch_size, examples), examples % batch_size or batch_size}:
        share = -(-size // devices)
        if share * (devices - 1) >= size:
            raise StageError(
                f"params.yaml: batch_size: {batch_size} makes a batch of {size} of the {examples}"
                f" {split} images, which leaves one of {devices} devices without an image:"
                " choose another batch_size, or distribution: none"
            )


def synchronize(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Makes batch normalizations take the statistics of the whole batch, not of a share."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = strategy.num_replicas_in_sync > 1
