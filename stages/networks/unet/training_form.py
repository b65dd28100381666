"""The U-Net in a form that trains faster: the same variables and the same function.

What leaves the training is the network that `network.build` made; nothing here is saved. Values
differ from it by rounding alone.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import layers, ops


def training_form(network: keras.Model) -> keras.Model:
    """Connects the layers of a U-Net anew.

    Batch normalisations of the encoder that keep their stored statistics are folded into the
    convolutions before them, and no gradient is computed toward an encoder that does not train.

    Args:
        network: What `network.build` has built. Its layers are shared, not copied.

    Returns:
        A model from images [batch, height, width, 3] to logits [batch, height, width, class].
    """
    scaling, encoder, *decoder = network.layers[1:]
    blocks = [layer for layer in decoder if isinstance(layer, keras.Sequential)]
    images = keras.Input(network.input_shape[1:], name="image")
    *skips, x = folded(encoder)(scaling(images))
    parts = [x]
    for block, skip in zip(blocks, reversed(skips), strict=True):
        transposed, *others = block.layers
        if len(parts) == 2 and not encoder.trainable_variables:
            x = FrozenSkipConv2DTranspose(transposed)(parts)
        else:
            x = transposed(layers.concatenate(parts) if len(parts) == 2 else x)
        for layer in others:
            x = layer(x)
        parts = [x, skip]
    return keras.Model(images, SplitConv2DTranspose(decoder[-1])(parts), name=network.name)


def folded(model: keras.Model) -> keras.Model:
    """A model whose stored batch normalisations are part of the convolutions before them.

    Args:
        model: A functional model in which each batch normalisation follows a convolution without a
            bias. Those with `trainable` true are left as they are.

    Returns:
        A model of the same function that shares the layers.
    """
    norms = {
        layer.input._keras_history.operation.name: layer
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization) and not layer.trainable
    }
    pads = {
        layer.input._keras_history.operation.name: layer.name
        for layer in model.layers
        if layer.name in norms and _is_same_padding(layer.input._keras_history.operation, layer)
    }
    removed = {norm.name for norm in norms.values()} | set(pads)
    with_padding = set(pads.values())

    def call(
        layer: keras.Layer, inputs: keras.KerasTensor, *others: object, **options: object
    ) -> keras.KerasTensor:
        if layer.name in norms:
            padding = "same" if layer.name in with_padding else layer.padding
            return FoldedConv2D(layer, norms[layer.name], padding)(inputs)
        return inputs if layer.name in removed else layer(inputs, *others, **options)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _is_same_padding(before: keras.Layer, convolution: layers.Layer) -> bool:
    """Whether a layer pads as the convolution would, and an even map: right and below, by one."""
    return (
        isinstance(before, layers.ZeroPadding2D)
        and before.padding == ((0, 1), (0, 1))
        and not any(side % 2 for side in before.input.shape[1:3])
        and (convolution.kernel_size, convolution.strides) == ((3, 3), (2, 2))
    )


class FoldedConv2D(layers.Layer):
    """A convolution and the stored batch normalisation behind it, as one convolution with a bias.

    gamma (Wx - mean) / sqrt(variance + epsilon) + beta is a convolution with a scaled kernel: one
    pass over the feature map less, forward and backward (Jacob et al., CVPR 2018, section 3.2).
    """

    def __init__(
        self, convolution: layers.Layer, norm: layers.BatchNormalization, padding: str
    ) -> None:
        """Takes a Conv2D or DepthwiseConv2D without bias, and a normalisation of its channels.

        The padding is the convolution's own, or "same" where a layer that padded is left out.
        """
        super().__init__(name=f"{convolution.name}_folded", dtype=convolution.dtype_policy)
        self.convolution = convolution
        self.norm = norm
        self.padding = padding

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """From [batch, height, width, channel] to what the normalisation gives."""
        norm, convolution = self.norm, self.convolution
        scale = norm.gamma * ops.rsqrt(norm.moving_variance + norm.epsilon)
        shift = norm.beta - norm.moving_mean * scale
        convolve: Callable[..., tf.Tensor] = ops.conv
        if isinstance(convolution, layers.DepthwiseConv2D):
            scale, convolve = ops.reshape(scale, (-1, 1)), ops.depthwise_conv
        kernel = ops.cast(convolution.kernel * scale, self.compute_dtype)
        x = convolve(images, kernel, strides=convolution.strides, padding=self.padding)
        # TensorFlow joins a BiasAdd with the convolution and the activation around it.
        return tf.nn.bias_add(x, ops.cast(shift, self.compute_dtype))


class SplitConv2DTranspose(layers.Layer):
    """A transposed convolution of several feature maps, as if they were concatenated.

    Cheaper than to concatenate them where there are few filters.
    """

    def __init__(self, convolution: layers.Conv2DTranspose) -> None:
        """Takes the convolution of the concatenated feature maps, with a bias."""
        super().__init__(name=f"{convolution.name}_split", dtype=convolution.dtype_policy)
        self.convolution = convolution

    def call(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """From feature maps [batch, height, width, channel] to one of the convolution's filters."""
        convolution = self.convolution
        ends = [sum(part.shape[-1] for part in parts[:count]) for count in range(1, len(parts))]
        maps = [
            ops.conv_transpose(
                part, kernel, strides=convolution.strides, padding=convolution.padding
            )
            for part, kernel in zip(
                parts, ops.split(convolution.kernel, ends, axis=-1), strict=True
            )
        ]
        return sum(maps, start=convolution.bias)


class FrozenSkipConv2DTranspose(layers.Layer):
    """A transposed convolution of two concatenated feature maps, the second without a gradient."""

    def __init__(self, convolution: layers.Conv2DTranspose) -> None:
        """Takes the convolution of both, of stride 2, "same" padding and without a bias."""
        super().__init__(name=f"{convolution.name}_joined", dtype=convolution.dtype_policy)
        self.convolution = convolution

    def call(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """From two maps [batch, height, width, channel] to [batch, 2 height, 2 width, filter]."""
        kernel = ops.cast(self.convolution.kernel, self.compute_dtype)
        return _frozen_skip_conv2d_transpose(*parts, tf.convert_to_tensor(kernel))

    def compute_output_shape(self, shapes: Sequence[tuple[int | None, ...]]) -> tuple:
        """The shape for two shapes of feature maps."""
        batch, height, width, _ = shapes[0]
        return batch, height and 2 * height, width and 2 * width, self.convolution.filters


@tf.custom_gradient
def _frozen_skip_conv2d_transpose(
    x: tf.Tensor, skip: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
    joined = tf.concat([x, skip], axis=-1)
    batch, height, width, _ = tf.unstack(tf.shape(joined))
    shape = (batch, 2 * height, 2 * width, kernel.shape[2])

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # A transposed convolution is the gradient of a convolution: its own gradients are that
        # convolution, and the gradient of that convolution's kernel.
        toward_x = tf.nn.conv2d(upstream, kernel[..., : x.shape[-1]], 2, "SAME")
        toward_kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=upstream,
            filter_sizes=kernel.shape,
            out_backprop=joined,
            strides=[1, 2, 2, 1],
            padding="SAME",
        )
        return toward_x, tf.zeros_like(skip), toward_kernel

    return tf.nn.conv2d_transpose(joined, kernel, shape, 2, "SAME"), gradient
