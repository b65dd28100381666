"""Random changes of training images and their masks, in one draw for both."""

import tensorflow as tf

from stages.params import Augmentation


def augment(
    images: tf.Tensor, masks: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes a batch as the parameters say.

    Args:
        images: uint8 [batch, height, width, 3].
        masks: uint8 [batch, height, width].
        seed: int32 or int64 [2]; the same seed draws the same changes.
        augmentation: Which changes.

    Returns:
        Images and masks of the same shapes and types, changed alike.
    """
    if augmentation.horizontal_flip:
        flip = tf.random.stateless_uniform([tf.shape(images)[0]], seed) < 0.5
        images = tf.where(flip[:, None, None, None], tf.reverse(images, [2]), images)
        masks = tf.where(flip[:, None, None], tf.reverse(masks, [2]), masks)
    return images, masks
