"""The upsampling block of pix2pix (Isola et al., Image-to-Image Translation, CVPR 2017)."""

import keras
from keras import layers


def upsample(filters: int, size: int) -> keras.Sequential:
    """Build a block from [batch, height, width, channel] to [batch, 2 height, 2 width, filters].

    A transposed convolution of `size` x `size`, batch normalization and ReLU. The kernels start as
    N(0, 0.02), as in the paper's section 6.2.
    """
    start = keras.initializers.RandomNormal(0.0, 0.02)
    convolution = layers.Conv2DTranspose(
        filters, size, strides=2, padding="same", use_bias=False, kernel_initializer=start
    )
    return keras.Sequential([convolution, layers.BatchNormalization(), layers.ReLU()])
