"""Training batches: order, flips, crops and colors, against SciPy, Pillow and Keras."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from stages.params import Augmentation
from stages.train.batches import augment, crop_boxes, steps_per_epoch, training_batches

COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
EVERYTHING = {"horizontal_flip": True, "crop_scale": 0.5, "crop_aspect": 1.5, **COLORS}
# Of the images that tell places: a row, and a column, is this much brighter than the one before.
STEP = 8.0

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.sampled_from([(8, 8), (8, 16), (8, 21), (16, 8)])  # of the batch and of the stored ones


def _only(**changes: object) -> Augmentation:
    nothing = {"horizontal_flip": False, "crop_scale": 1.0, "crop_aspect": 1.0}
    return Augmentation.model_validate(nothing | dict.fromkeys(COLORS, 0.0) | changes)


PLACES = st.builds(
    lambda flip, scale, aspect: _only(horizontal_flip=flip, crop_scale=scale, crop_aspect=aspect),
    st.booleans(),
    st.floats(0.3, 1),
    st.floats(1, 2),
)


def _augment(
    images: np.ndarray, masks: np.ndarray, seed: int, what: Augmentation, size: int
) -> tuple[np.ndarray, np.ndarray]:
    changed, labels = augment(
        tf.constant(images), tf.constant(masks), tf.constant([seed, 7], tf.int64), what, size
    )
    return changed.numpy(), labels.numpy()


def _noise(count: int, size: int, low: int = 0, high: int = 256) -> np.ndarray:
    draw = np.random.default_rng(count * size)
    return draw.integers(low, high, (count, size, size, 3), dtype=np.uint8)


def _masks(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(count * size).integers(0, 3, (count, size, size), dtype=np.uint8)


def _places(count: int, size: int) -> np.ndarray:
    """Noise in blue; red grows from row to row and green from column to column."""
    images = _noise(count, size)
    images[..., 0] = STEP * np.arange(size)[:, None]
    images[..., 1] = STEP * np.arange(size)
    return images


def _sampled(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where images of `_places` have been sampled: rows and columns, [image, size]."""
    rows, columns = images[..., 0].astype(float) / STEP, images[..., 1].astype(float) / STEP
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :, :1], rows.shape), atol=1e-4)
    np.testing.assert_allclose(columns, np.broadcast_to(columns[:, :1], columns.shape), atol=1e-4)
    return rows[:, :, 0], columns[:, 0]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=SEEDS, sizes=SIZES, what=PLACES)
def test_crops_are_sampled_bilinearly_and_masks_from_the_nearest_pixel(
    seed: int, sizes: tuple[int, int], what: Augmentation
) -> None:
    size, stored = sizes
    images, masks = _places(6, stored), _masks(6, stored)
    changed, labels = _augment(images, masks, seed, what, size)
    assert changed.shape == (6, size, size, 3)
    assert (labels.shape, labels.dtype) == ((6, size, size), np.uint8)
    sampled = _sampled(changed)
    for number, (rows, columns) in enumerate(zip(*sampled, strict=True)):
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = ndimage.map_coordinates(
            images[number, ..., 2].astype(float), grid, order=1, mode="nearest"
        )
        np.testing.assert_allclose(changed[number, ..., 2], expected, atol=0.02)
        # Where a pixel is sampled half-way between two, either of them is the nearest.
        clear = np.all([np.abs(place % 1 - 0.5) > 1e-3 for place in grid], axis=0)
        nearest = masks[number][tuple(np.rint(place).astype(int) for place in grid)]
        np.testing.assert_array_equal(labels[number][clear], nearest[clear])
    # At even distances, inside a crop of the allowed sides.
    smallest = what.crop_scale / math.sqrt(what.crop_aspect) * stored
    for places in sampled:
        np.testing.assert_allclose(np.diff(places, 2), 0, atol=1e-3)
        lowest, highest = places.min(axis=1), places.max(axis=1)
        assert lowest.min() >= 0
        assert highest.max() <= stored - 1 + 1e-4
        half = (highest - lowest) / (size - 1) / 2  # the outermost pixels have this much around
        inside = (lowest > 0.01) & (highest < stored - 1.01)
        assert (2 * half * size >= smallest - 1e-3)[inside].all()
        assert (lowest + 0.5 - half >= -1e-3)[inside].all()
        assert (highest + 0.5 + half <= stored + 1e-3)[inside].all()
    assert (sampled[0][:, 0] < sampled[0][:, -1]).all()
    assert what.horizontal_flip or (sampled[1][:, 0] < sampled[1][:, -1]).all()


@pytest.mark.parametrize(("stored", "size"), [(8, 8), (12, 8), (8, 16)])
def test_an_image_of_one_color_and_class_stays_so_up_to_its_edges(stored: int, size: int) -> None:
    """Of thousands of crops, because few end exactly at the edge."""
    images = np.full((4000, stored, stored, 3), 200, np.uint8)
    masks = np.full((4000, stored, stored), 2, np.uint8)
    what = _only(horizontal_flip=True, crop_scale=0.75, crop_aspect=1.5)
    changed, labels = _augment(images, masks, 0, what, size)
    assert changed.min() == changed.max() == 200
    assert (labels == 2).all()


def test_pixels_stay_between_0_and_255_and_no_class_is_invented() -> None:
    draw = np.random.default_rng(0)
    images = draw.choice([0, 1, 254, 255], (64, 16, 16, 3)).astype(np.uint8)
    masks = draw.choice([0, 2], (64, 16, 16)).astype(np.uint8)
    changed, labels = _augment(
        images, masks, 0, _only(**EVERYTHING | dict.fromkeys(COLORS, 0.9)), 8
    )
    assert (changed.min(), changed.max()) == (0, 255)
    assert set(np.unique(labels)) == {0, 2}


@pytest.mark.parametrize("flip", [False, True])
def test_without_other_changes_every_pixel_stays_as_it_is_or_is_mirrored(flip: bool) -> None:
    images, masks = _noise(16, 8), _masks(16, 8)
    changed, labels = _augment(images, masks, 0, _only(horizontal_flip=flip), 8)
    assert changed.dtype == labels.dtype == np.uint8
    mirror = keras.ops.flip(images, axis=2).numpy()
    mirrored = np.array([(image == other).all() for image, other in zip(changed, mirror)])  # noqa: B905
    assert mirrored.any() == flip
    assert not mirrored.all()
    np.testing.assert_array_equal(changed[~mirrored], images[~mirrored])
    np.testing.assert_array_equal(labels[~mirrored], masks[~mirrored])
    np.testing.assert_array_equal(labels[mirrored], masks[mirrored, :, ::-1])


def test_images_of_twice_the_size_become_the_means_of_four_pixels() -> None:
    images = _noise(4, 16)
    changed, _ = _augment(images, _masks(4, 16), 0, _only(), 8)
    fours = images.reshape(4, 8, 2, 8, 2, 3)
    np.testing.assert_allclose(changed, fours.mean(axis=(2, 4)), atol=1e-3)


@pytest.mark.parametrize("name", COLORS)
def test_each_change_draws_alike_whatever_else_changes(name: str) -> None:
    images, masks = _places(8, 16), _masks(8, 16)
    crop, flip = {"crop_scale": 0.5, "crop_aspect": 1.5}, {"horizontal_flip": True}
    alone, _ = _augment(images, masks, 0, _only(**flip), 8)
    mirrored = np.diff(_sampled(alone)[1])[:, 0] < 0
    straight, labels = _augment(images, masks, 0, _only(**crop), 8)
    plain, _ = _augment(images, masks, 0, _only(**crop, **flip), 8)
    np.testing.assert_allclose(plain[mirrored], straight[mirrored, :, ::-1], atol=0.02)
    both, both_labels = _augment(images, masks, 0, _only(**EVERYTHING), 8)
    np.testing.assert_array_equal(both_labels[~mirrored], labels[~mirrored])
    other, _ = _augment(images, masks, 1, _only(**EVERYTHING), 8)
    assert (other != both).any()
    # Of one color each, so that places do not matter.
    even = np.broadcast_to(_noise(8, 1, 100, 150), (8, 16, 16, 3)).copy()
    color, _ = _augment(even, masks, 0, _only(**{name: 0.3}), 8)
    together, _ = _augment(even, masks, 0, _only(**{name: 0.3}, **crop, **flip), 8)
    np.testing.assert_allclose(together, color, atol=1e-3)
    assert np.abs(color - even[:, :8, :8]).max() > 0.5


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_a_change_of_colors_is_pillows_with_a_factor_in_the_range_asked_for(
    name: str, enhance: type[ImageEnhance.Brightness]
) -> None:
    images = _noise(64, 8, 60, 180)  # nothing comes near 0 or 255
    changed, _ = _augment(images, _masks(64, 8), 3, _only(**{name: 0.3}), 8)
    factors = []
    for original, image in zip(images, changed, strict=True):
        enhanced = enhance(Image.fromarray(original))
        nothing = np.asarray(enhanced.enhance(0.0)).astype(float)
        span = original - nothing
        factors.append(np.sum((image - nothing) * span) / np.sum(span**2))
        expected = np.asarray(enhanced.enhance(factors[-1])).astype(float)
        assert np.abs(image - expected).max() < 1.6  # Pillow rounds to whole numbers
    assert 0.69 < min(factors) < 0.73
    assert 1.27 < max(factors) < 1.31
    assert np.mean(factors) == pytest.approx(1, abs=0.08)


def test_scale_proportions_and_place_of_crops_are_spread_evenly() -> None:
    """Within what is expected of 2000 draws."""
    boxes = crop_boxes(tf.constant([1, 7]), 2000, _only(crop_scale=0.5)).numpy().astype(float)
    top, left, height, width = boxes.T
    np.testing.assert_allclose(height, width, rtol=1e-6)
    drawn = [2 * height - 1, top / (1 - height + 1e-9), left / (1 - width + 1e-9)]
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.1
    long = crop_boxes(tf.constant([3, 4]), 2000, _only(crop_scale=0.4, crop_aspect=2.0)).numpy()
    height, width = long[:, 2:].astype(float).T
    assert np.minimum(height, width).min() >= 0.4 / math.sqrt(2) - 1e-6
    small = np.sqrt(height * width) < 1 / math.sqrt(2) - 1e-3  # none of these is cut at an edge
    drawn.append(np.log2(height / width)[small & (height < 1) & (width < 1)] / 2 + 0.5)
    for values in drawn:
        assert stats.kstest(values, "uniform").pvalue > 0.01


def _epochs(examples: int, batch_size: int, epochs: int, seed: int, first: int = 0) -> list:
    """Batches of flipped images whose left half tells their number, and masks equal to them."""
    images = np.zeros((examples, 6, 6, 3), np.uint8)
    images[:, :, :3] = np.arange(1, examples + 1)[:, None, None, None]
    dataset = training_batches(
        images,
        images[..., 0].copy(),
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        augmentation=_only(horizontal_flip=True),
        image_size=6,
        first_epoch=first,
    )
    batches = list(dataset.as_numpy_iterator())
    steps = steps_per_epoch(examples, batch_size)
    assert len(batches) == (epochs - first) * steps
    return [batches[start : start + steps] for start in range(0, len(batches), steps)]


def _numbers(epoch: list) -> list[int]:
    return [int(number) for images, _ in epoch for number in images.max(axis=(1, 2, 3))]


def _flipped(epoch: list) -> set[int]:
    return {int(image.max()) for images, _ in epoch for image in images if image[0, 0, 0] == 0}


@pytest.mark.parametrize(("examples", "batch_size"), [(1, 4), (20, 7), (12, 4)])
def test_each_epoch_has_every_example_once(examples: int, batch_size: int) -> None:
    for epoch in _epochs(examples, batch_size, 2, 0):
        assert sorted(_numbers(epoch)) == list(range(1, examples + 1))
        assert all(len(images) == batch_size for images, _ in epoch[:-1])
        for images, masks in epoch:  # flipped in one draw
            np.testing.assert_array_equal(images[..., 0], masks)


def test_order_and_flips_are_functions_of_seed_epoch_and_batch() -> None:
    first, second, third = _epochs(20, 8, 3, 0)
    assert _numbers(first) != _numbers(second) != _numbers(third)
    assert _flipped(first) != _flipped(second)
    (alone,) = _epochs(20, 8, 2, 0, first=1)
    for (images, _), (same, _) in zip(second, alone, strict=True):
        np.testing.assert_array_equal(images, same)
    assert _numbers(_epochs(20, 8, 1, 1)[0]) != _numbers(first)
    draws = [len(_flipped(epoch)) for epoch in _epochs(40, 8, 8, 0)]
    assert 0.4 < np.mean(draws) / 40 < 0.6
