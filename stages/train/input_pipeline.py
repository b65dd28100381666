"""Batches for training and validation."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.params import Augmentation
from stages.train.augment import augment

Pixels = npt.NDArray[np.uint8]


def training_batches(
    images: Pixels,
    masks: Pixels,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    image_size: int,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """The augmented batches of all epochs, one epoch after the other.

    Order and augmentation of a batch are functions of (seed, epoch, batch) alone: each epoch draws
    anew, and any epoch can be made without those before it.

    Args:
        images: [example, height, width, 3], 0 to 255; the cache that every epoch draws from.
        masks: [example, height, width].
        epochs: Number of epochs.
        batch_size: Examples in a batch; the last one of an epoch may be smaller.
        seed: Seed of the order and the augmentation.
        augmentation: What is changed at random.
        image_size: Height and width of the batches' images in pixels.
        first_epoch: How many epochs are left out at the beginning.

    Returns:
        A dataset of `augment`'s images [batch, image_size, image_size, 3] and masks uint8
        [batch, image_size, image_size], with `steps_per_epoch` batches an epoch.
    """
    all_images, all_masks = tf.constant(images), tf.constant(masks)

    def epoch_indices(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.random.fold_in(tf.constant([seed, 0], tf.int64), epoch)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), epoch_seed)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
        return batches.enumerate(1).map(
            lambda step, indices: (indices, tf.random.fold_in(epoch_seed, step))
        )

    def batch(indices: tf.Tensor, batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return augment(
            tf.gather(all_images, indices),
            tf.gather(all_masks, indices),
            batch_seed,
            augmentation,
            image_size,
        )

    return (
        tf.data.Dataset.range(first_epoch, epochs)
        .flat_map(epoch_indices)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """The number of batches in an epoch, the smaller last one included."""
    return -(-examples // batch_size)
