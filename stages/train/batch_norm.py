"""Batch normalisation's statistics, measured over some batches instead of averaged on the way."""

from collections.abc import Callable, Iterable

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

Forward = Callable[[npt.NDArray], tf.Tensor]


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
        self._forward: Forward | None = None

    def on_test_begin(self, logs: dict | None = None) -> None:
        """Measures."""
        if self._forward is None:
            self._forward = training_pass(self.model)  # traced once
        estimate_statistics(self.model, self._batches, self._forward)


def training_pass(model: keras.Model) -> Forward:
    """The network's forward pass as it is in training."""
    return tf.function(lambda images: model(images, training=True), reduce_retracing=True)


def estimate_statistics(
    model: keras.Model, batches: Iterable[npt.NDArray], forward: Forward | None = None
) -> None:
    """Sets the means and variances of all batch normalisations that train to those of the batches.

    A layer's mean is that of the batches' means; its variance is the mean of their variances and
    the variance of their means together. Batches count alike whatever their size.

    Args:
        model: The network; layers with `trainable` false keep their statistics.
        batches: Images [batch, height, width, 3].
        forward: `training_pass` of the network, used for nothing else: it is traced here, with
            moving averages that take over the last batch.
    """
    norms = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    forward = forward or training_pass(model)
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
