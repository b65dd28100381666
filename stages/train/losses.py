"""What a network is trained to lower: cross-entropy, and overlap measures added to it."""

import keras
import tensorflow as tf

from stages.params import Loss
from stages.records.classes import BORDER


class SegmentationLoss(keras.losses.Loss):
    """Cross-entropy over pixels, plus Dice and Lovasz losses with their weights.

    The true classes are integers [batch, height, width], the predictions logits float32
    [batch, height, width, class]; the loss is one number, in nats where nothing is added.
    """

    def __init__(self, params: Loss) -> None:
        """Takes the weights of the parts; a part with weight 0 is not computed."""
        super().__init__(name="segmentation_loss", reduction=None)
        self._params = params
        self._dice = keras.losses.Dice(axis=(0, 1, 2))

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of a batch, float32 []; of several devices, a device's part of it."""
        params = self._params
        classes = tf.cast(y_true, tf.int32)  # Keras has made floats of them
        total = _cross_entropy(classes, y_pred, params.label_smoothing, params.border_weight)
        if params.dice_weight or params.lovasz_weight:
            probabilities = tf.nn.softmax(y_pred)
            truth = tf.one_hot(classes, y_pred.shape[-1], dtype=probabilities.dtype)
            if params.dice_weight:
                total += params.dice_weight * self._dice(truth, probabilities)
            if params.lovasz_weight:
                total += params.lovasz_weight * lovasz_softmax(truth, probabilities)
        # Keras adds up the gradients of all devices that share a batch, so each gives its part.
        devices = tf.distribute.get_strategy().num_replicas_in_sync
        return total if devices == 1 else total / devices


def _cross_entropy(
    classes: tf.Tensor, logits: tf.Tensor, smoothing: float, border_weight: float
) -> tf.Tensor:
    if smoothing:
        truth = tf.one_hot(classes, logits.shape[-1], dtype=logits.dtype)
        losses = keras.losses.categorical_crossentropy(
            truth, logits, from_logits=True, label_smoothing=smoothing
        )
    else:
        losses = keras.losses.sparse_categorical_crossentropy(classes, logits, from_logits=True)
    if border_weight == 1:
        return tf.reduce_mean(losses)
    weights = tf.where(classes == BORDER, border_weight, 1.0)
    return tf.reduce_sum(weights * losses) / tf.reduce_sum(weights)


def lovasz_softmax(truth: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """The Lovasz-Softmax loss of a batch (Berman, Rannen Triki, Blaschko, CVPR 2018).

    The Lovasz extension of 1 - IoU of each class, over all pixels of the batch, and their mean over
    the classes that the batch's masks hold. For hard predictions it is exactly 1 - IoU.

    Args:
        truth: 0 or 1, float32 [batch, height, width, class].
        probabilities: In [0, 1], float32 of the same shape.

    Returns:
        float32 [], in [0, 1].
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
