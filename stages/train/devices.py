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
        tf.config.experimental.set_memory_growth(device, True)  # or it takes all at once


def strategy(params: Params) -> tf.distribute.Strategy:
    """One device, or with `mirrored` all GPUs of the machine (its CPUs where there is none)."""
    if params.distribution == "none":
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def check_shares(examples: int, batch_size: int, replicas: int) -> None:
    """Checks that every replica gets an image of each batch of a split: a mean of none is NaN.

    Raises:
        StageError: A batch, or the smaller last one, is too small.
    """
    for size in {min(batch_size, examples), examples % batch_size or batch_size}:
        if -(-size // replicas) * (replicas - 1) >= size:
            raise StageError(
                f"params.yaml: batch_size: {batch_size} leaves one of {replicas} devices without an"
                f" image in a batch of {size} of {examples}: choose another, or distribution: none"
            )
