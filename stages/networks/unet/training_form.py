"""The U-Net in a form that trains faster: the same variables, and the same function to rounding."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops


def training_form(network: keras.Model) -> keras.Model:
    """Connects the layers of a U-Net, which are shared and not copied, in another way.

    Stored batch normalizations of the encoder are folded into the convolutions before them, those
    by the batch are one operation each, and no gradient is computed toward an encoder that does not
    train.
    """
    scaling, encoder, *decoder = network.layers[1:]
    blocks = [layer for layer in decoder if isinstance(layer, keras.Sequential)]
    images = keras.Input(network.input_shape[1:], name="image")
    *skips, x = _reconnected(encoder)(scaling(images))
    skip = None
    for block, next_skip in zip(blocks, reversed(skips), strict=True):
        transposed, *others = block.layers
        if skip is None:
            x = transposed(x)
        elif encoder.trainable_variables:
            x = transposed(layers.concatenate([x, skip]))
        else:
            x = FrozenSkipConv2DTranspose(transposed)([x, skip])
        for layer in others:
            norm = isinstance(layer, layers.BatchNormalization)
            x = FusedBatchNormalization(layer)(x) if norm else layer(x)
        skip = next_skip
    logits = decoder[-1](layers.concatenate([x, skip]))
    return keras.Model(images, logits, name=network.name)


def _reconnected(model: keras.Model) -> keras.Model:
    stored = {
        layer.input._keras_history.operation: layer
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization) and not layer.trainable
    }

    def call(layer: keras.Layer, inputs: keras.KerasTensor, **options: Any) -> keras.KerasTensor:
        if layer in stored:
            return FoldedConv2D(layer, stored[layer])(inputs)
        if layer in stored.values():
            return inputs
        if isinstance(layer, layers.BatchNormalization):
            return FusedBatchNormalization(layer)(inputs)
        return layer(inputs, **options)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


class FusedBatchNormalization(layers.Layer):
    """A BatchNormalization that takes the batch's statistics in TensorFlow's fused operation.

    Keras has one operation for each step of the formula, and a pass over the feature map for each.
    Over several replicas Keras' own is used: the fused operation knows one replica's share.
    """

    def __init__(self, norm: layers.BatchNormalization) -> None:
        super().__init__(name=f"{norm.name}_fused", dtype=norm.dtype_policy)
        self.norm = norm

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """From [batch, height, width, channel] to what the normalization gives."""
        norm = self.norm
        if not training or norm.synchronized:
            return norm(images, training=training)
        normalized, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            images, norm.gamma, norm.beta, epsilon=norm.epsilon
        )
        pixels = ops.cast(ops.size(images) / images.shape[-1], variance.dtype)
        variance *= (pixels - 1) / pixels  # that of the batch, as Keras has it, not an estimate
        for moving, new in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
            moving.assign(norm.momentum * moving + (1 - norm.momentum) * new)
        return normalized


class FoldedConv2D(layers.Layer):
    """A Conv2D or DepthwiseConv2D without a bias and the stored normalization behind it, as one.

    gamma (Wx - mean) / sqrt(variance + epsilon) + beta is a convolution with a scaled kernel and a
    bias: one pass over the feature map less (Jacob et al., CVPR 2018, section 3.2).
    """

    def __init__(self, convolution: layers.Layer, norm: layers.BatchNormalization) -> None:
        super().__init__(name=f"{convolution.name}_folded", dtype=convolution.dtype_policy)
        self.convolution = convolution
        self.norm = norm

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """From [batch, height, width, channel] to what the normalization gives."""
        norm, convolution = self.norm, self.convolution
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        shift = norm.beta - norm.moving_mean * scale
        convolve: Callable[..., tf.Tensor] = ops.conv
        if isinstance(convolution, layers.DepthwiseConv2D):
            scale, convolve = ops.reshape(scale, (-1, 1)), ops.depthwise_conv
        kernel = ops.cast(convolution.kernel * scale, self.compute_dtype)
        x = convolve(images, kernel, strides=convolution.strides, padding=convolution.padding)
        # TensorFlow fuses a BiasAdd with the convolution and the activation around it.
        return tf.nn.bias_add(x, ops.cast(shift, self.compute_dtype))


class FrozenSkipConv2DTranspose(layers.Layer):
    """A Conv2DTranspose of two concatenated feature maps, the second without a gradient.

    It has stride 2, "same" padding and no bias.
    """

    def __init__(self, convolution: layers.Conv2DTranspose) -> None:
        super().__init__(name=f"{convolution.name}_joined", dtype=convolution.dtype_policy)
        self.convolution = convolution

    def call(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """From two maps [batch, height, width, channel] to [batch, 2 height, 2 width, filter]."""
        kernel = ops.cast(self.convolution.kernel, self.compute_dtype)
        return _frozen_skip_conv2d_transpose(*parts, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _frozen_skip_conv2d_transpose(x: tf.Tensor, skip: tf.Tensor, kernel: tf.Tensor) -> tuple:
    joined = tf.concat([x, skip], axis=-1)
    _, height, width, channels = x.shape
    shape = (tf.shape(x)[0], 2 * height, 2 * width, kernel.shape[2])

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # A transposed convolution is the gradient of a convolution: its own gradients are that
        # convolution, and the gradient of that convolution's kernel.
        toward_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream,
            filter_sizes=kernel.shape,
            out_backprop=joined,
            strides=[1, 2, 2, 1],
            padding="SAME",
        )
        toward_x = tf.nn.conv2d(upstream, kernel[..., :channels], 2, "SAME")
        return toward_x, tf.zeros_like(skip), toward_kernel

    return tf.nn.conv2d_transpose(joined, kernel, shape, 2, "SAME"), gradient
