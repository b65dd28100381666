"""The recipe of the notebook that the project grew out of, written again for comparison.

Its peculiarities are kept: the mirror images are drawn once, before the cache, so that every epoch
sees the same ones; masks are resized bilinearly, and the fractional labels between two classes are
cut to a class that may be neither of them; an encoder that was pretrained on [-1, 1] sees [0, 1].
"""

import keras
import tensorflow as tf
import tensorflow_datasets as tfds

from stages.networks.unet import network as unet
from stages.params import UNetParams

BATCH_SIZE = 32


def examples(builder: tfds.core.DatasetBuilder, split: str, image_size: int) -> tf.data.Dataset:
    """Training images float32 [image_size, image_size, 3] in [0, 1], and masks float32.

    The masks [image_size, image_size, 1] have fractions in [0, 2] where classes meet.
    """

    def load(example: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.image.resize(example["image"], (image_size, image_size))
        mask = tf.image.resize(example["segmentation_mask"], (image_size, image_size))
        if tf.random.uniform(()) > 0.5:
            image, mask = tf.image.flip_left_right(image), tf.image.flip_left_right(mask)
        return image / 255, mask - 1

    return builder.as_dataset(split=split).map(load, num_parallel_calls=tf.data.AUTOTUNE).cache()


def compiled(params: UNetParams, image_size: int, num_classes: int) -> keras.Model:
    """The U-Net with a frozen encoder of `params`' weights, from images in [0, 1] to logits."""
    changes = {"train_encoder": False, "encoder_batch_statistics": "batch"}
    changes |= {"input_range": "unit", "batch_norm_momentum": 0.99}
    whole = unet.build(params.model_copy(update=changes), image_size, num_classes)
    # From behind the scaling on: the notebook scales in its dataset.
    model = keras.Model(whole.get_layer("scale_to_unit").output, whole.output)
    model.compile(
        optimizer=keras.optimizers.Adam(0.001),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Keras would use XLA today, but did not when the notebook was written
    )
    return model
