"""Batch normalisation's statistics, measured over some batches instead of averaged on the way."""

from collections.abc import Iterable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf


class StatisticsEstimator(keras.callbacks.Callback):
    """Measures the statistics of the batch normalisations that train, before each validation.

    Moving averages lag behind weights that change fast; statistics of a fixed set of weights do
    not (Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021). With averaged weights this callback
    comes after the one that puts them in place: they have never been normalised by anything else.
    """

    def __init__(self, batches: Iterable[npt.NDArray]) -> None:
        """Takes the batches of images [batch, height, width, 3] to measure on."""
        super().__init__()
        self._batches = list(batches)

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Measures."""
        estimate_statistics(self.model, self._batches)


def estimate_statistics(model: keras.Model, batches: Iterable[npt.NDArray]) -> None:
    """Sets the means and variances of all batch normalisations that train to those of the batches.

    A layer's mean is that of the batches' means; its variance is the mean of their variances and
    the variance of their means together. Batches count alike whatever their size.

    Args:
        model: The network; layers with `trainable` false keep their statistics.
        batches: Images [batch, height, width, 3].
    """
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    forward = tf.function(lambda images: model(images, training=True), reduce_retracing=True)
    means: list[list[np.ndarray]] = [[] for _ in norms]
    variances: list[list[np.ndarray]] = [[] for _ in norms]
    try:
        for layer in norms:
            layer.momentum = 0.0  # the moving average is then the batch's own
        for images in batches:
            forward(images)
            for index, layer in enumerate(norms):
                means[index].append(layer.moving_mean.numpy())
                variances[index].append(layer.moving_variance.numpy())
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    for layer, of_batches, spreads in zip(norms, means, variances, strict=True):
        layer.moving_mean.assign(np.mean(of_batches, axis=0))
        layer.moving_variance.assign(np.mean(spreads, axis=0) + np.var(of_batches, axis=0))
