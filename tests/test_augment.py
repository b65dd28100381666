import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage, stats

from stages.params import Augmentation
from stages.train.augment import augment, crop_boxes
from stages.train.input_pipeline import training_batches

PLAIN = Augmentation(
    horizontal_flip=False,
    crop_scale=1.0,
    crop_aspect=1.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
)
COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
EVERYTHING = {"horizontal_flip": True, "crop_scale": 0.5, "crop_aspect": 1.5, **COLORS}
# Of the pictures that tell places: a row, and a column, is this much brighter than the one before.
STEP = 8.0

SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.sampled_from([(8, 8), (8, 16), (8, 21), (16, 8)])  # of the batch and of the stored ones
PLACES = st.builds(
    lambda flip, scale, aspect: _only(horizontal_flip=flip, crop_scale=scale, crop_aspect=aspect),
    st.booleans(),
    st.floats(0.3, 1),
    st.floats(1, 2),
)


def _only(**changes: object) -> Augmentation:
    return PLAIN.model_copy(update=changes)


def _augment(
    images: np.ndarray, masks: np.ndarray, seed: int, what: Augmentation, size: int
) -> tuple[np.ndarray, np.ndarray]:
    changed, labels = augment(
        tf.constant(images), tf.constant(masks), tf.constant([seed, 7], tf.int64), what, size
    )
    return changed.numpy(), labels.numpy()


def _noise(count: int, size: int, low: int = 0, high: int = 256) -> np.ndarray:
    rng = np.random.default_rng(count * size)
    return rng.integers(low, high, (count, size, size, 3), dtype=np.uint8)


def _masks(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(count * size).integers(0, 3, (count, size, size), dtype=np.uint8)


def _places(count: int, size: int) -> np.ndarray:
    """Noise in blue; red grows from row to row and green from column to column."""
    images = _noise(count, size)
    images[..., 0] = STEP * np.arange(size)[:, None]
    images[..., 1] = STEP * np.arange(size)
    return images


def _sampled(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pictures of `_places` have been sampled: rows and columns, [image, size]."""
    rows, columns = images[..., 0].astype(float) / STEP, images[..., 1].astype(float) / STEP
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :, :1], rows.shape), atol=1e-4)
    np.testing.assert_allclose(columns, np.broadcast_to(columns[:, :1], columns.shape), atol=1e-4)
    return rows[:, :, 0], columns[:, 0]


@settings(deadline=None, max_examples=15, derandomize=True)
@given(seed=SEEDS, sizes=SIZES, what=PLACES)
def test_pixels_are_sampled_bilinearly_and_classes_from_the_nearest_pixel(
    seed: int, sizes: tuple[int, int], what: Augmentation
) -> None:
    size, stored = sizes
    images, masks = _places(6, stored), _masks(6, stored)
    changed, labels = _augment(images, masks, seed, what, size)
    assert changed.shape == (6, size, size, 3)
    assert labels.shape == (6, size, size)
    assert labels.dtype == np.uint8
    for number, (rows, columns) in enumerate(zip(*_sampled(changed), strict=True)):
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = ndimage.map_coordinates(
            images[number, ..., 2].astype(float), grid, order=1, mode="nearest"
        )
        np.testing.assert_allclose(changed[number, ..., 2], expected, atol=0.02)
        # Where a pixel is sampled half-way between two, either of them is the nearest.
        clear = np.all([np.abs(place % 1 - 0.5) > 1e-3 for place in grid], axis=0)
        nearest = masks[number][tuple(np.rint(place).astype(int) for place in grid)]
        np.testing.assert_array_equal(labels[number][clear], nearest[clear])


@settings(deadline=None, max_examples=15, derandomize=True)
@given(seed=SEEDS, sizes=SIZES, what=PLACES)
def test_pixels_are_sampled_at_even_distances_inside_a_crop_of_the_allowed_sides(
    seed: int, sizes: tuple[int, int], what: Augmentation
) -> None:
    size, stored = sizes
    changed, _ = _augment(_places(6, stored), _masks(6, stored), seed, what, size)
    sampled = _sampled(changed)
    for places in sampled:
        np.testing.assert_allclose(np.diff(places, 2), 0, atol=1e-3)
        assert places.min() >= 0
        assert places.max() <= stored - 1 + 1e-4
    smallest = what.crop_scale / math.sqrt(what.crop_aspect) * stored
    for places in sampled:
        lowest, highest = places.min(axis=1), places.max(axis=1)
        half = (highest - lowest) / (size - 1) / 2  # the outermost pixels have this much around
        inside = (lowest > 0.01) & (highest < stored - 1.01)
        assert (2 * half * size >= smallest - 1e-3)[inside].all()
        assert (lowest + 0.5 - half >= -1e-3)[inside].all()
        assert (highest + 0.5 + half <= stored + 1e-3)[inside].all()
    assert (sampled[0][:, 0] < sampled[0][:, -1]).all()
    assert what.horizontal_flip or (sampled[1][:, 0] < sampled[1][:, -1]).all()


@settings(deadline=None, max_examples=15, derandomize=True)
@given(seed=SEEDS, sizes=SIZES, what=PLACES)
def test_image_and_mask_stay_aligned(seed: int, sizes: tuple[int, int], what: Augmentation) -> None:
    size, stored = sizes
    masks = _masks(6, stored)
    images = np.eye(3, dtype=np.uint8)[masks] * np.uint8(200)  # a channel for each class
    changed, labels = _augment(images, masks, seed, what, size)
    # The nearest of four pixels has at least a quarter of their weight.
    weights = changed / 200
    assert np.take_along_axis(weights, labels[..., None], axis=-1).min() > 0.25 - 1e-3
    pure = weights.max(axis=-1) > 1 - 1e-5
    np.testing.assert_array_equal(labels[pure], weights.argmax(axis=-1)[pure])


@pytest.mark.parametrize(("stored", "size"), [(8, 8), (12, 8), (8, 16)])
def test_a_picture_of_one_color_and_class_stays_so_up_to_its_edges(stored: int, size: int) -> None:
    """Of thousands of crops, because few end exactly at the edge."""
    images = np.full((4000, stored, stored, 3), 200, np.uint8)
    masks = np.full((4000, stored, stored), 2, np.uint8)
    what = _only(horizontal_flip=True, crop_scale=0.75, crop_aspect=1.5)
    changed, labels = _augment(images, masks, 0, what, size)
    assert changed.min() == changed.max() == 200
    assert (labels == 2).all()


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    seed=SEEDS,
    sizes=SIZES,
    place=PLACES,
    strengths=st.lists(st.floats(0, 0.99), min_size=3, max_size=3),
    classes=st.sets(st.integers(0, 2), min_size=1),
)
def test_pixels_stay_between_0_and_255_and_no_class_is_invented(
    seed: int,
    sizes: tuple[int, int],
    place: Augmentation,
    strengths: list[float],
    classes: set[int],
) -> None:
    size, stored = sizes
    images = np.random.default_rng(seed).choice([0, 1, 254, 255], (4, stored, stored, 3))
    masks = np.random.default_rng(seed).choice(sorted(classes), (4, stored, stored))
    colors = dict(zip(COLORS, strengths, strict=True))
    changed, labels = _augment(
        images.astype(np.uint8), masks.astype(np.uint8), seed, place.model_copy(update=colors), size
    )
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert set(np.unique(labels)) <= classes


@pytest.mark.parametrize("flip", [False, True])
def test_without_changes_every_pixel_stays_as_it_is(flip: bool) -> None:
    images, masks = _noise(8, 8), _masks(8, 8)
    changed, labels = _augment(images, masks, 0, _only(horizontal_flip=flip), 8)
    assert changed.dtype == labels.dtype == np.uint8
    mirrored = np.array(
        [(image != original).any() for image, original in zip(changed, images, strict=True)]
    )
    assert mirrored.any() == flip
    assert not mirrored.all()
    np.testing.assert_array_equal(changed[~mirrored], images[~mirrored])
    np.testing.assert_array_equal(labels[~mirrored], masks[~mirrored])
    np.testing.assert_array_equal(changed[mirrored], images[mirrored, :, ::-1])
    np.testing.assert_array_equal(labels[mirrored], masks[mirrored, :, ::-1])


def test_pictures_of_twice_the_size_become_the_means_of_four_pixels() -> None:
    images, masks = _noise(4, 16), _masks(4, 16)
    changed, labels = _augment(images, masks, 0, PLAIN, 8)
    fours = images.reshape(4, 8, 2, 8, 2, 3)
    np.testing.assert_allclose(changed, fours.mean(axis=(2, 4)), atol=1e-3)
    # All four are equally near.
    same = masks.reshape(4, 8, 2, 8, 2) == labels[:, :, None, :, None]
    assert same.any(axis=(2, 4)).all()


@pytest.mark.parametrize(("stored", "size"), [(24, 8), (40, 8), (35, 7)])
def test_pictures_of_an_odd_multiple_of_the_size_are_sampled_as_pillow_does(
    stored: int, size: int
) -> None:
    images, masks = _noise(4, stored), _masks(4, stored)
    changed, labels = _augment(images, masks, 0, PLAIN, size)
    for number in range(4):
        for mine, original in ((changed, images), (labels, masks)):
            scaled = Image.fromarray(original[number]).resize(
                (size, size), Image.Resampling.NEAREST
            )
            np.testing.assert_allclose(mine[number], np.asarray(scaled), atol=0.01)


@settings(deadline=None, max_examples=10, derandomize=True)
@given(seed=SEEDS, other=SEEDS)
def test_the_same_seed_changes_alike_and_another_seed_differently(seed: int, other: int) -> None:
    what = _only(**EVERYTHING)
    images, masks = _noise(4, 16), _masks(4, 16)
    first, second = (_augment(images, masks, seed, what, 8) for _ in range(2))
    for one, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, same)
    if other != seed:
        assert (_augment(images, masks, other, what, 8)[0] != first[0]).any()


def test_the_pictures_of_a_batch_are_changed_differently() -> None:
    image, mask = _noise(1, 16), _masks(1, 16)
    images, masks = np.repeat(image, 8, axis=0), np.repeat(mask, 8, axis=0)
    for name, strength in EVERYTHING.items():
        changed, _ = _augment(images, masks, 0, _only(**{name: strength}), 8)
        different = {picture.tobytes() for picture in changed}
        assert len(different) == (2 if name == "horizontal_flip" else 8), name


@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=SEEDS)
def test_the_same_pictures_are_mirrored_whatever_else_changes(seed: int) -> None:
    images, masks = _places(8, 16), _masks(8, 16)
    flip = {"horizontal_flip": True}
    without, with_flip = ({**EVERYTHING, "horizontal_flip": flipped} for flipped in (False, True))
    alone, _ = _augment(images, masks, seed, _only(**flip), 8)
    mirrored = np.diff(_sampled(alone)[1])[:, 0] < 0
    straight, _ = _augment(images, masks, seed, _only(**without), 8)
    together, _ = _augment(images, masks, seed, _only(**with_flip), 8)
    np.testing.assert_allclose(together[mirrored], straight[mirrored, :, ::-1], atol=0.02)
    np.testing.assert_allclose(together[~mirrored], straight[~mirrored], atol=0.02)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=SEEDS)
def test_the_same_crops_are_drawn_whatever_else_changes(seed: int) -> None:
    images, masks = _places(8, 16), _masks(8, 16)
    crop = {"crop_scale": 0.5, "crop_aspect": 1.5}
    alone, classes = _augment(images, masks, seed, _only(**crop), 8)
    _, with_colors = _augment(images, masks, seed, _only(**crop, **COLORS), 8)
    np.testing.assert_array_equal(classes, with_colors)
    flipped, _ = _augment(images, masks, seed, _only(**crop, horizontal_flip=True), 8)
    for places, same in zip(_sampled(alone), _sampled(flipped), strict=True):
        np.testing.assert_allclose(np.sort(places), np.sort(same), atol=1e-3)


@settings(deadline=None, max_examples=8, derandomize=True)
@given(seed=SEEDS, name=st.sampled_from(sorted(COLORS)))
def test_colors_are_drawn_alike_whatever_else_changes(seed: int, name: str) -> None:
    # Of one colour each, so that places do not matter.
    images = np.broadcast_to(_noise(8, 1, 100, 150), (8, 16, 16, 3)).copy()
    change, elsewhere = {name: 0.3}, {"crop_scale": 0.5, "crop_aspect": 1.5}
    alone, _ = _augment(images, _masks(8, 16), seed, _only(**change), 8)
    assert np.abs(alone - images[:, :8, :8]).max() > 0.5
    what = _only(**change, **elsewhere, horizontal_flip=True)
    together, _ = _augment(images, _masks(8, 16), seed, what, 8)
    np.testing.assert_allclose(together, alone, atol=1e-3)
    # Contrast and saturation change nothing of an even grey, so brightness is what is left.
    grey = np.repeat(images[..., :1], 3, axis=-1)
    bright, _ = _augment(grey, _masks(8, 16), seed, _only(brightness=0.3), 8)
    everything, _ = _augment(grey, _masks(8, 16), seed, _only(**COLORS), 8)
    np.testing.assert_allclose(everything, bright, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_a_change_of_colors_is_pillows_with_a_factor_in_the_range_that_was_asked_for(
    name: str, enhance: type[ImageEnhance.Brightness]
) -> None:
    images = _noise(64, 8, 60, 180)  # nothing comes near 0 or 255
    changed, _ = _augment(images, _masks(64, 8), 3, _only(**{name: 0.3}), 8)
    assert changed.dtype == np.float32
    factors = []
    for original, image in zip(images, changed, strict=True):
        picture = Image.fromarray(original)
        nothing = np.asarray(enhance(picture).enhance(0.0)).astype(float)
        span = original - nothing
        factors.append(np.sum((image - nothing) * span) / np.sum(span**2))
        expected = np.asarray(enhance(picture).enhance(factors[-1])).astype(float)
        assert (
            np.abs(image - expected).max() < 1.6
        )  # roundings of Pillow, which keeps whole numbers
    assert 0.69 < min(factors) < 0.73
    assert 1.27 < max(factors) < 1.31
    assert np.mean(factors) == pytest.approx(1, abs=0.08)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(seed=SEEDS, scale=st.floats(0.05, 1), aspect=st.floats(1, 4))
def test_crops_are_inside_the_picture_and_not_smaller_or_longer_than_allowed(
    seed: int, scale: float, aspect: float
) -> None:
    what = _only(crop_scale=scale, crop_aspect=aspect)
    boxes = crop_boxes(tf.constant([seed, 0]), 64, what).numpy().astype(float)
    top, left, height, width = boxes.T
    assert boxes.min() >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    for side in (height, width):
        assert side.min() >= scale / math.sqrt(aspect) - 1e-6
    assert np.abs(np.log(height / width)).max() <= math.log(aspect) + 1e-5
    # What has not been cut at the picture's edge has the area that was drawn.
    whole = (height < 1) & (width < 1)
    assert (np.sqrt(height * width)[whole] >= scale - 1e-6).all()
    if aspect == 1:
        np.testing.assert_allclose(height, width, rtol=1e-6)


def test_scale_proportions_and_place_of_crops_are_spread_evenly() -> None:
    """Within what is expected of 2000 draws."""
    images, masks = _places(2000, 16), _masks(2000, 16)
    changed, _ = _augment(images, masks, 1, _only(crop_scale=0.5), 8)
    sampled = _sampled(changed)
    sides = [8 * np.diff(places).mean(axis=1) for places in sampled]
    np.testing.assert_allclose(sides[0], sides[1], atol=1e-3)
    # Half of the distance between two pixels is around them.
    starts = [places[:, 0] + 0.5 - side / 16 for places, side in zip(sampled, sides, strict=True)]
    drawn = [sides[0] / 8 - 1, *(start / (16 - sides[0] + 1e-6) for start in starts)]
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 0.1
    long = crop_boxes(tf.constant([3, 4]), 2000, _only(crop_scale=0.4, crop_aspect=2.0)).numpy()
    height, width = long[:, 2:].astype(float).T
    small = np.sqrt(height * width) < 1 / math.sqrt(2) - 1e-3  # none of these is cut at an edge
    drawn.append(np.log2(height / width)[small & (height < 1) & (width < 1)] / 2 + 0.5)
    for values in drawn:
        assert stats.kstest(values, "uniform").pvalue > 0.01


def test_batches_for_training_have_the_size_of_the_network() -> None:
    images, masks = _noise(5, 16), _masks(5, 16)
    dataset = training_batches(
        images,
        masks,
        epochs=2,
        batch_size=2,
        seed=0,
        augmentation=_only(**EVERYTHING),
        image_size=8,
    )
    batches = list(dataset.as_numpy_iterator())
    assert [pixels.shape for pixels, _ in batches] == [(2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)] * 2
    assert [labels.shape for _, labels in batches] == [(2, 8, 8), (2, 8, 8), (1, 8, 8)] * 2
    assert dataset.element_spec[0].shape.as_list() == [None, 8, 8, 3]
    assert {str(pixels.dtype) for pixels, _ in batches} == {"float32"}
    assert {str(labels.dtype) for _, labels in batches} == {"uint8"}
