"""Random changes of training images and their masks, in one draw for both."""

import math

import tensorflow as tf

from stages.params import Augmentation

# ITU-R BT.601: how much red, green and blue contribute to grey.
_LUMA = (0.299, 0.587, 0.114)


def augment(
    images: tf.Tensor,
    masks: tf.Tensor,
    seed: tf.Tensor,
    augmentation: Augmentation,
    image_size: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes a batch as the parameters say, and brings it to the network's size.

    Crop, change of size and flip are one resampling: bilinear for images, the nearest pixel's class
    for masks. What is not asked for costs nothing and changes no pixel.

    Args:
        images: uint8 [batch, height, width, 3].
        masks: uint8 [batch, height, width].
        seed: int32 or int64 [2]; the same seed draws the same changes.
        augmentation: Which changes.
        image_size: Height and width of the result in pixels.

    Returns:
        Images [batch, image_size, image_size, 3] in [0, 255], uint8 where nothing but flips was to
        do and float32 otherwise, and masks uint8 [batch, image_size, image_size].
    """
    # Each change draws from a seed of its own, so that one does not alter another's draws.
    place_seed, flip_seed, color_seed = tf.unstack(tf.random.split(seed, 3))
    count = tf.shape(images)[0]
    flip = tf.zeros([count], tf.bool)
    if augmentation.horizontal_flip:
        flip = tf.random.stateless_uniform([count], flip_seed) < 0.5
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
    """Draws crops.

    The scale is uniform in [crop_scale, 1], the logarithm of the aspect ratio uniform in
    +-log(crop_aspect), as in Inception's crops (Szegedy et al., CVPR 2015), which draw areas; the
    place is uniform. A side that would leave the picture is cut to the picture's.

    Args:
        seed: int [2].
        count: How many.
        augmentation: The smallest scale and the largest aspect ratio.

    Returns:
        float32 [count, 4]: top, left, height and width as shares of the picture's sides.
    """
    scale, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4, count], seed))
    scale = augmentation.crop_scale + (1 - augmentation.crop_scale) * scale
    root = tf.exp((aspect - 0.5) * math.log(augmentation.crop_aspect))
    height, width = tf.minimum(scale * root, 1.0), tf.minimum(scale / root, 1.0)
    return tf.stack([(1 - height) * top, (1 - width) * left, height, width], axis=1)


def _resample(
    images: tf.Tensor, masks: tf.Tensor, boxes: tf.Tensor, flip: tf.Tensor, image_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    top, left, height, width = tf.unstack(boxes, axis=1)
    first_row, last_row = _sample_ends(top, height, images.shape[1], image_size)
    first_column, last_column = _sample_ends(left, width, images.shape[2], image_size)
    first_column, last_column = (
        tf.where(flip, last_column, first_column),
        tf.where(flip, first_column, last_column),
    )
    ends = tf.stack([first_row, first_column, last_row, last_column], axis=1)
    numbers, size = tf.range(tf.shape(images)[0]), (image_size, image_size)
    images = tf.image.crop_and_resize(images, ends, numbers, size)
    masks = tf.image.crop_and_resize(masks[..., None], ends, numbers, size, method="nearest")
    return images, tf.cast(masks[..., 0], tf.uint8)


def _sample_ends(
    start: tf.Tensor, share: tf.Tensor, source: int, target: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the first and the last pixel of a crop are sampled, as crop_and_resize counts.

    It takes the centres of the first and the last source pixel for 0 and 1; here a pixel has a
    width, and the centre of the first target pixel is half a step inside the crop.
    """
    step = share * source / target
    first = start * source + step / 2 - 0.5
    last = first + step * (target - 1)
    # A little inside: rounding must not put a sample outside, where crop_and_resize gives 0.
    inside = 1e-6, 1 - 1e-6
    return (
        tf.clip_by_value(first / (source - 1), *inside),
        tf.clip_by_value(last / (source - 1), *inside),
    )


def _change_colors(images: tf.Tensor, seed: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    images = tf.cast(images, tf.float32)
    draws = tf.random.stateless_uniform([3, tf.shape(images)[0], 1, 1, 1], seed, -1, 1)
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    brightness, contrast, saturation = (
        1 + strength * draw for strength, draw in zip(strengths, tf.unstack(draws), strict=True)
    )
    grey = tf.reduce_sum(images * _LUMA, axis=-1, keepdims=True)
    images = grey + saturation * (images - grey)
    mean = tf.reduce_mean(grey, axis=(1, 2), keepdims=True)
    return tf.clip_by_value(brightness * (mean + contrast * (images - mean)), 0, 255)
