"""Training on all GPUs of one machine: each takes an equal share of every batch."""

import keras
import tensorflow as tf

from stages.params import Params
from stages.stage import StageError


def strategy(params: Params) -> tf.distribute.Strategy:
    """What a training runs on: one device, or copies of the network on all of them.

    The devices are the machine's GPUs, or the CPU where there is none.

    Args:
        params: All parameters.

    Returns:
        A strategy; networks and optimizers are built in its scope.
    """
    if params.distribution == "none":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def check_shares(examples: int, split: str, batch_size: int, devices: int) -> None:
    """Sees to it that no batch leaves a device without a picture, whose loss would be no number.

    Args:
        examples: How many the split has.
        split: The split's name.
        batch_size: Pictures in a batch, on all devices together; the last batch may be smaller.
        devices: How many share a batch.

    Raises:
        StageError: A batch is too small.
    """
    for size in {min(batch_size, examples), examples % batch_size or batch_size}:
        share = -(-size // devices)
        if share * (devices - 1) >= size:
            raise StageError(
                f"params.yaml: batch_size: {batch_size} makes a batch of {size} of the {examples}"
                f" {split} pictures, which leaves one of {devices} devices without a picture:"
                " choose another batch_size, or distribution: none"
            )


def synchronize(model: keras.Model) -> None:
    """Lets batch normalisations take the statistics of the whole batch, not of a device's share."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
