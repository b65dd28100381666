"""U-Net (Ronneberger et al., MICCAI 2015) with a MobileNetV2 encoder and pix2pix upsampling."""

from collections.abc import Callable, Mapping

import keras
from keras import layers

from stages.networks.unet import pix2pix
from stages.networks.unet.training_form import training_form  # noqa: F401  for `train`
from stages.params import UNetParams
from stages.stage import StageError

# The encoder's outputs at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's height and width.
ENCODER_OUTPUTS = [*(f"block_{n}_expand_relu" for n in (1, 3, 6, 13)), "block_16_project"]
DECODER_FILTERS = (512, 256, 128, 64)


def build(params: UNetParams, image_size: int, num_classes: int) -> keras.Model:
    """Build the network: 6,504,227 parameters at 3 classes, 4,660,323 of them in the decoder.

    From images [batch, image_size, image_size, 3] in [0, 255], image_size a multiple of 32, to
    logits [batch, image_size, image_size, class], float32 whatever the precision policy. Raises
    StageError if the encoder's weights or tensorflow_examples are unavailable.
    """
    images = keras.Input((image_size, image_size, 3), name="image")
    if params.input_range == "signed_unit":  # what MobileNetV2 was trained on
        scaled = layers.Rescaling(1 / 127.5, offset=-1.0, name="scale_to_signed_unit")(images)
    else:
        scaled = layers.Rescaling(1 / 255, name="scale_to_unit")(images)
    encoder = _encoder(params, image_size)
    *skips, x = encoder(scaled)
    upsample = _upsampling_block(params.upsampling_block)
    blocks = [upsample(filters, 3) for filters in DECODER_FILTERS]
    for block, skip in zip(blocks, reversed(skips), strict=True):
        x = layers.Concatenate()([block(x), skip])
    logits = layers.Conv2DTranspose(
        num_classes, 3, strides=2, padding="same", dtype="float32", name="logits"
    )(x)
    for part in (encoder, *blocks):
        for layer in part.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = params.batch_norm_momentum
    return keras.Model(images, logits, name="unet")


def learning_rate_factors(model: keras.Model, params: UNetParams) -> Mapping[str, float]:
    """Learning-rate factors by the paths of the encoder's variables."""
    variables = model.get_layer("encoder").trainable_variables
    return {variable.path: params.encoder_learning_rate_factor for variable in variables}


def _encoder(params: UNetParams, image_size: int) -> keras.Model:
    weights = params.encoder_weights
    try:
        mobilenet = keras.applications.MobileNetV2(
            input_shape=(image_size, image_size, 3),
            include_top=False,
            weights=None if weights == "none" else weights,
        )
    except Exception as error:  # of a download, keras.utils.get_file raises a bare Exception
        raise StageError(
            f"params.yaml: unet.encoder_weights: {weights} cannot be loaded"
            f" ({str(error).splitlines()[0]}): allowed are `imagenet` (downloaded, or below"
            " models/ in the folder KERAS_HOME), a .weights.h5 or .h5 file of MobileNetV2 without"
            " its top, or `none`, random weights, with `unet.train_encoder: true`"
        ) from error
    outputs = [mobilenet.get_layer(name).output for name in ENCODER_OUTPUTS]
    encoder = keras.Model(mobilenet.input, outputs, name="encoder")
    # Frozen as Keras has it: no gradients, and batch normalization uses its stored statistics.
    encoder.trainable = params.train_encoder
    for layer in encoder.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable &= params.encoder_batch_statistics == "batch"
    return encoder


def _upsampling_block(origin: str) -> Callable[[int, int], keras.Model]:
    if origin == "project":
        return pix2pix.upsample
    try:
        from tensorflow_examples.models.pix2pix import pix2pix as examples_pix2pix  # noqa: PLC0415
    except ImportError as error:
        raise StageError(
            "params.yaml: unet.upsampling_block: tensorflow_examples is not installed;"
            " `make setup EXTRAS=cpu,tensorflow-examples` installs it, or use `project`"
        ) from error
    return examples_pix2pix.upsample
