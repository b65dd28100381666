"""Conv-Deconv: a plain convolutional encoder-decoder without skip connections."""

import keras
from keras import layers

from stages.params import NetworkParams


def build(params: NetworkParams, image_size: int, num_classes: int) -> keras.Model:
    """Build the network: 62,243 parameters at 3 classes.

    From images [batch, image_size, image_size, 3] in [0, 255], image_size a multiple of 8, to
    logits [batch, image_size, image_size, class], float32 whatever the precision policy.
    """
    del params
    images = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 255, name="scale_to_unit")(images)
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="conv_1")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_2")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_3")(x)
    x = layers.Conv2DTranspose(
        64, 3, strides=2, padding="same", activation="relu", name="deconv_1"
    )(x)
    logits = layers.Conv2DTranspose(
        num_classes, 3, strides=2, padding="same", dtype="float32", name="logits"
    )(x)
    return keras.Model(images, logits, name="conv_deconv")
