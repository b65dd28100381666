"""Training batches: order, flips, crops and colors, against SciPy, Pillow and Keras."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import stats
from scipy.interpolate import interpn

from stages.params import Augmentation, Params
from stages.train import batches
from stages.train.batches import augment, crop_boxes, training_batches

COLORS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
EVERYTHING = {"horizontal_flip": True, "crop_scale": 0.5, "crop_aspect": 1.5, **COLORS}
PILLOW = zip(
    COLORS, (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), strict=True
)
SEEDS = st.integers(0, 2**31 - 1)
SIZES = st.sampled_from([(8, 8), (8, 16), (8, 21), (16, 8)])  # of the batch and of the stored ones


def _only(**changes: object) -> Augmentation:
    nothing = {"horizontal_flip": False, "crop_scale": 1.0, "crop_aspect": 1.0}
    return Augmentation.model_validate(nothing | dict.fromkeys(COLORS, 0.0) | changes)


def _augment(
    images: np.ndarray, masks: np.ndarray, seed: int, what: Augmentation, size: int
) -> tuple[np.ndarray, np.ndarray]:
    changed, labels = augment(
        tf.constant(images), tf.constant(masks), tf.constant([seed, 7], tf.int64), what, size
    )
    return changed.numpy(), labels.numpy()


def _noise(count: int, size: int, low: int = 0, high: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks."""
    draw = np.random.default_rng(count * size)
    images = draw.integers(low, high, (count, size, size, 3), dtype=np.uint8)
    return images, draw.integers(0, 3, (count, size, size), dtype=np.uint8)


def _mirrored(images: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Which of the images have only been mirrored, [image]."""
    return (changed == images[:, :, ::-1]).all(axis=(1, 2, 3))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seed=SEEDS, sizes=SIZES, scale=st.floats(0.3, 1), aspect=st.floats(1, 2))
def test_crops_are_sampled_bilinearly_and_masks_from_the_nearest_pixel(
    seed: int, sizes: tuple[int, int], scale: float, aspect: float
) -> None:
    size, stored = sizes
    images, masks = _noise(6, stored)
    what = _only(horizontal_flip=True, crop_scale=scale, crop_aspect=aspect)
    boxes = crop_boxes(tf.constant([seed, 7]), 6, what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "crop_boxes", lambda *_: boxes)
        changed, labels = _augment(images, masks, seed, what, size)
    assert changed.shape == (6, size, size, 3)
    assert (labels.shape, labels.dtype) == ((6, size, size), np.uint8)
    for number, box in enumerate(boxes.numpy().astype(float)):
        # From the centre of the first to that of the last of `size` parts, inside the image.
        start, step = box[:2] * stored, box[2:] * stored / size
        ends = np.clip([start + step / 2, start + step * (size - 0.5)], 0.5, stored - 0.5) - 0.5
        grid = np.stack(np.meshgrid(*np.linspace(ends[0], ends[1], size).T, indexing="ij"), axis=-1)
        pixels = np.arange(stored), np.arange(stored)
        expected = interpn(pixels, images[number].astype(float), grid)
        flip = slice(None, None, 1 if np.allclose(changed[number], expected, atol=0.1) else -1)
        np.testing.assert_allclose(changed[number][:, flip], expected, atol=0.1)
        # Where a pixel is sampled half-way between two, either of them is the nearest.
        clear = (np.abs(grid % 1 - 0.5) > 1e-3).all(axis=-1)
        nearest = interpn(pixels, masks[number].astype(float), grid, method="nearest")
        np.testing.assert_array_equal(labels[number][:, flip][clear], nearest[clear])


@pytest.mark.parametrize(("stored", "size"), [(8, 8), (12, 8), (8, 16)])
def test_an_image_of_one_color_and_class_stays_so_up_to_its_edges(stored: int, size: int) -> None:
    """Of thousands of crops, because few end exactly at the edge."""
    images = np.full((4000, stored, stored, 3), 200, np.uint8)
    masks = np.full(images.shape[:3], 2, np.uint8)
    what = _only(horizontal_flip=True, crop_scale=0.75, crop_aspect=1.5)
    changed, labels = _augment(images, masks, 0, what, size)
    assert changed.min() == changed.max() == 200
    assert (labels == 2).all()


def test_pixels_stay_between_0_and_255_and_no_class_is_invented() -> None:
    draw = np.random.default_rng(0)
    images = draw.choice([0, 1, 254, 255], (64, 16, 16, 3)).astype(np.uint8)
    masks = draw.choice([0, 2], (64, 16, 16)).astype(np.uint8)
    everything = _only(**EVERYTHING | dict.fromkeys(COLORS, 0.9))
    changed, labels = _augment(images, masks, 0, everything, 8)
    assert (changed.min(), changed.max()) == (0, 255)
    assert set(np.unique(labels)) == {0, 2}


@pytest.mark.parametrize("flip", [False, True])
def test_without_other_changes_every_pixel_stays_as_it_is_or_is_mirrored(flip: bool) -> None:
    images, masks = _noise(16, 8)
    changed, labels = _augment(images, masks, 0, _only(horizontal_flip=flip), 8)
    assert changed.dtype == labels.dtype == np.uint8
    mirrored = _mirrored(images, changed)
    assert mirrored.any() == flip
    assert not mirrored.all()
    np.testing.assert_array_equal(changed[~mirrored], images[~mirrored])
    np.testing.assert_array_equal(labels[~mirrored], masks[~mirrored])
    np.testing.assert_array_equal(labels[mirrored], masks[mirrored, :, ::-1])


@pytest.mark.parametrize("name", COLORS)
def test_each_change_draws_alike_whatever_else_changes(name: str) -> None:
    images, masks = _noise(8, 8)
    crop, flip = {"crop_scale": 0.5, "crop_aspect": 1.5}, {"horizontal_flip": True}
    mirrored = _mirrored(images, _augment(images, masks, 0, _only(**flip), 8)[0])
    straight, labels = _augment(images, masks, 0, _only(**crop), 8)
    plain, _ = _augment(images, masks, 0, _only(**crop, **flip), 8)
    np.testing.assert_allclose(plain[mirrored], straight[mirrored, :, ::-1], atol=0.1)
    both, both_labels = _augment(images, masks, 0, _only(**EVERYTHING), 8)
    np.testing.assert_array_equal(both_labels[~mirrored], labels[~mirrored])
    other, _ = _augment(images, masks, 1, _only(**EVERYTHING), 8)
    assert (other != both).any()
    # Of one color each, so that places do not matter.
    even = np.broadcast_to(_noise(8, 1, 100, 150)[0], (8, 8, 8, 3)).copy()
    color, _ = _augment(even, masks, 0, _only(**{name: 0.3}), 8)
    together, _ = _augment(even, masks, 0, _only(**{name: 0.3}, **crop, **flip), 8)
    np.testing.assert_allclose(together, color, atol=1e-3)
    assert np.abs(color - even).max() > 0.5


@pytest.mark.parametrize(("name", "enhance"), PILLOW)
def test_a_change_of_colors_is_pillows_with_a_factor_in_the_range_asked_for(
    name: str, enhance: type[ImageEnhance.Brightness]
) -> None:
    images, masks = _noise(64, 8, 60, 180)  # nothing comes near 0 or 255
    changed, _ = _augment(images, masks, 3, _only(**{name: 0.3}), 8)
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
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 1 + 1e-6
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
    """For each epoch the numbers of its examples, and whether they are flipped: [2, example]."""
    images = np.zeros((examples, 6, 6, 3), np.uint8)
    images[:, :, :3] = np.arange(1, examples + 1)[:, None, None, None]
    flips = _only(horizontal_flip=True)
    params = Params.model_construct(
        epochs=epochs, batch_size=batch_size, seed=seed, augmentation=flips
    )
    dataset = training_batches(images, images[..., 0].copy(), params, 6, first)
    found = []
    for changed, masks in dataset.as_numpy_iterator():
        assert len(changed) <= batch_size
        np.testing.assert_array_equal(changed[..., 0], masks)  # flipped in one draw
        found.append([changed.max(axis=(1, 2, 3)), changed[:, 0, 0, 0] == 0])
    steps = math.ceil(examples / batch_size)
    assert len(found) == (epochs - first) * steps
    return [np.hstack(found[start : start + steps]) for start in range(0, len(found), steps)]


@pytest.mark.parametrize(("examples", "batch_size"), [(1, 4), (20, 7), (12, 4)])
def test_each_epoch_has_every_example_once(examples: int, batch_size: int) -> None:
    for numbers, _ in _epochs(examples, batch_size, 2, 0):
        assert sorted(numbers) == list(range(1, examples + 1))


def test_order_and_flips_are_functions_of_seed_epoch_and_batch() -> None:
    epochs = np.array(_epochs(40, 16, 8, 0))
    assert (epochs[0] != epochs[1]).any(axis=1).all()
    assert 0.4 < epochs[:, 1].mean() < 0.6
    np.testing.assert_array_equal(_epochs(40, 16, 2, 0, first=1)[0], epochs[1])
    assert (_epochs(40, 16, 1, 1)[0][0] != epochs[0, 0]).any()
