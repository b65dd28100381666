"""The network as it is used: what `evaluate` measures is what `pets predict` and exports do."""

import functools
import math
from collections.abc import Callable

import keras
import tensorflow as tf


def prediction_function(model: keras.Model, flip: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """The network as it is used: with or without the mean over an image and its mirror image.

    Returns:
        A function from images [batch, height, width, 3] to logits [batch, height, width, class].
    """

    def both(images: tf.Tensor) -> tf.Tensor:
        seen = tf.nn.log_softmax(model(images, training=False))
        mirrored = tf.nn.log_softmax(model(tf.reverse(images, [2]), training=False))
        # Of logarithms, because a probability of nearly nothing is 0 in float32.
        return tf.experimental.numpy.logaddexp(seen, tf.reverse(mirrored, [2])) - math.log(2)

    return both if flip else functools.partial(model, training=False)
