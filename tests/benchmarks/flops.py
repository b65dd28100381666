"""How much arithmetic a network is, counted from the shapes of its layers."""

from typing import NamedTuple

import keras
from keras import layers


class Flops(NamedTuple):
    """Floating-point operations of one image's forward pass, two for a product and its addition."""

    trained: int  # of the layers that train
    frozen: int

    @property
    def training_step(self) -> int:
        """Of one image's part of a training step.

        A layer that trains computes its output, the gradient of its input and that of its kernel,
        all three the same products; a frozen encoder computes its output alone.
        """
        return 3 * self.trained + self.frozen


def forward_flops(model: keras.Model) -> Flops:
    """Counts the convolutions of a network, nested models included.

    Biases, normalisations, activations and pooling are left out, and so are the products with the
    zeros of the padding that an implementation could save: those are counted as if they were made.

    Args:
        model: A built functional model whose layers are each used once.
    """
    counts = {True: 0, False: 0}
    for layer in leaves(model):
        counts[layer.trainable] += _layer_flops(layer)
    return Flops(trained=counts[True], frozen=counts[False])


def leaves(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model and of the models in it."""
    found = []
    for layer in model.layers:
        found += leaves(layer) if isinstance(layer, keras.Model) else [layer]
    return found


def _layer_flops(layer: keras.Layer) -> int:
    if not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Conv2DTranspose):
        return 0
    # Each output pixel of a convolution takes the whole kernel once; so does each input pixel of a
    # transposed one.
    transposed = isinstance(layer, layers.Conv2DTranspose)
    _, height, width, _ = (layer.input if transposed else layer.output).shape
    kernel = 1
    for side in layer.kernel.shape:
        kernel *= side
    return 2 * height * width * kernel
