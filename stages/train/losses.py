"""The training loss: cross-entropy, and overlap measures added to it."""

import keras
import tensorflow as tf

from stages.params import Loss
from stages.records.classes import BORDER


def segmentation_loss(params: Loss, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy over pixels, plus Dice and Lovasz losses with their weights.

    From integer masks [batch, height, width] and float32 logits [batch, height, width, class] to
    float32 [], in nats where nothing is added.
    """
    truth = tf.one_hot(tf.cast(masks, tf.int32), logits.shape[-1], dtype=logits.dtype)
    entropy = keras.losses.categorical_crossentropy(
        truth, logits, from_logits=True, label_smoothing=params.label_smoothing
    )
    weights = tf.where(masks == BORDER, params.border_weight, 1.0)
    total = tf.reduce_sum(weights * entropy) / tf.reduce_sum(weights)
    probabilities = tf.nn.softmax(logits)
    if params.dice_weight:
        dice = keras.losses.dice(truth, probabilities, axis=(0, 1, 2))  # Dice() divides by replicas
        total += params.dice_weight * tf.reduce_mean(dice)
    if params.lovasz_weight:
        total += params.lovasz_weight * lovasz_softmax(truth, probabilities)
    return total


def lovasz_softmax(truth: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """The Lovasz-Softmax loss (Berman, Rannen Triki, Blaschko, CVPR 2018), float32 [] in [0, 1].

    The Lovasz extension of 1 - IoU of each class over all pixels of the batch, averaged over the
    classes in the truth. Both arguments are float32 [batch, height, width, class] in [0, 1]; for
    hard predictions it is exactly 1 - IoU.
    """
    classes = truth.shape[-1]
    foreground = tf.transpose(tf.reshape(truth, (-1, classes)))
    errors = tf.abs(foreground - tf.transpose(tf.reshape(probabilities, (-1, classes))))
    # top_k keeps the order of equal values, so that the gradient is the same in each run.
    errors, order = tf.math.top_k(errors, tf.shape(errors)[1])
    foreground = tf.gather(foreground, order, batch_dims=1)
    pixels = tf.reduce_sum(foreground, axis=1, keepdims=True)
    intersection = pixels - tf.cumsum(foreground, axis=1)
    union = pixels + tf.cumsum(1 - foreground, axis=1)
    loss = 1 - intersection / union
    steps = tf.concat([loss[:, :1], loss[:, 1:] - loss[:, :-1]], axis=1)
    present = tf.cast(pixels[:, 0] > 0, errors.dtype)
    of_classes = tf.reduce_sum(errors * tf.stop_gradient(steps), axis=1)
    return tf.math.divide_no_nan(tf.reduce_sum(of_classes * present), tf.reduce_sum(present))
