"""Training batches: their order, and random changes of images and masks in one draw."""

import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.params import Augmentation, Params


def training_batches(
    images: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.uint8],
    params: Params,
    image_size: int,
    first_epoch: int = 0,
) -> tf.data.Dataset:
    """Batches of images and masks as from `augment`, epoch after epoch from `first_epoch` on.

    Order and augmentation of a batch are functions of (seed, epoch, batch) alone, so any epoch can
    be made without those before it; its last batch may be smaller. Takes images [example, height,
    width, 3] and masks [example, height, width].
    """
    all_images, all_masks = tf.constant(images), tf.constant(masks)

    def epoch_indices(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.random.fold_in(tf.constant([params.seed, 0], tf.int64), epoch)
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), epoch_seed)
        batches = tf.data.Dataset.from_tensor_slices(order).batch(params.batch_size)
        return batches.enumerate(1).map(
            lambda step, indices: (indices, tf.random.fold_in(epoch_seed, step))
        )

    def batch(indices: tf.Tensor, batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        chosen = tf.gather(all_images, indices), tf.gather(all_masks, indices)
        return augment(*chosen, batch_seed, params.augmentation, image_size)

    return (
        tf.data.Dataset.range(first_epoch, params.epochs)
        .flat_map(epoch_indices)
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def augment(
    images: tf.Tensor,
    masks: tf.Tensor,
    seed: tf.Tensor,
    augmentation: Augmentation,
    image_size: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Change a batch at random and bring it to the network's size.

    Crop, resizing and flip are one resampling: bilinear for images, nearest-neighbour for masks.
    From uint8 images [batch, height, width, 3] and masks [batch, height, width] to images
    [batch, image_size, image_size, 3] in [0, 255], uint8 after nothing but flips and float32
    otherwise, and uint8 masks. The seed is an integer tensor [2].
    """
    # Each change draws from a seed of its own, so that one does not alter another's draws.
    place_seed, flip_seed, color_seed = tf.unstack(tf.random.split(seed, 3))
    count = tf.shape(images)[0]
    share = 0.5 if augmentation.horizontal_flip else 0.0
    flip = tf.random.stateless_uniform([count], flip_seed) < share
    same_size = images.shape[1:3] == (image_size, image_size)
    if same_size and augmentation.crop_scale == 1 and augmentation.crop_aspect == 1:
        images = tf.where(flip[:, None, None, None], tf.reverse(images, [2]), images)
        masks = tf.where(flip[:, None, None], tf.reverse(masks, [2]), masks)
    else:
        boxes = crop_boxes(place_seed, count, augmentation)
        images, masks = _resample(images, masks, boxes, flip, image_size)
    if augmentation.brightness or augmentation.contrast or augmentation.saturation:
        images = _change_colors(images, color_seed, augmentation)
    return images, masks


def crop_boxes(seed: tf.Tensor, count: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Draw crops: float32 [count, 4] of top, left, height and width as shares of the image.

    The scale is uniform in [crop_scale, 1], the logarithm of the aspect ratio in +-log(crop_aspect)
    (as in Inception's crops of areas: Szegedy et al., CVPR 2015), and so is the place. A side that
    would leave the image is cut to the image's.
    """
    scale, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4, count], seed))
    scale = augmentation.crop_scale + (1 - augmentation.crop_scale) * scale
    root = tf.exp((aspect - 0.5) * math.log(augmentation.crop_aspect))
    height, width = tf.minimum(scale * root, 1.0), tf.minimum(scale / root, 1.0)
    return tf.stack([(1 - height) * top, (1 - width) * left, height, width], axis=1)


def _resample(
    images: tf.Tensor, masks: tf.Tensor, boxes: tf.Tensor, flip: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    source = tf.constant(images.shape[1:3].as_list(), tf.float32)
    step = boxes[:, 2:] * source / image_size
    # crop_and_resize counts the centres of the first and the last source pixel as 0 and 1; here a
    # pixel has a width, and the centre of the first target pixel is half a step inside the crop.
    first = boxes[:, :2] * source + step / 2 - 0.5
    last = first + step * (image_size - 1)
    # Rounding must not put a sample outside, where crop_and_resize gives 0.
    first, last = (tf.clip_by_value(end / (source - 1), 1e-6, 1 - 1e-6) for end in (first, last))
    mirrored = flip[:, None] & [False, True]
    ends = tf.concat([tf.where(mirrored, last, first), tf.where(mirrored, first, last)], axis=1)
    numbers, size = tf.range(tf.shape(images)[0]), (image_size, image_size)
    images = tf.image.crop_and_resize(images, ends, numbers, size)
    masks = tf.image.crop_and_resize(masks[..., None], ends, numbers, size, method="nearest")
    return images, tf.cast(masks[..., 0], tf.uint8)


def _change_colors(images: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    images = tf.cast(images, tf.float32)
    draws = tf.random.stateless_uniform([3, tf.shape(images)[0], 1, 1, 1], seed, -1, 1)
    brightness = 1 + augmentation.brightness * draws[0]
    contrast = 1 + augmentation.contrast * draws[1]
    saturation = 1 + augmentation.saturation * draws[2]
    grey = tf.reduce_sum(images * (0.299, 0.587, 0.114), axis=-1, keepdims=True)  # ITU-R BT.601
    images = grey + saturation * (images - grey)
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    return tf.clip_by_value(brightness * (mean + contrast * (images - mean)), 0, 255)
