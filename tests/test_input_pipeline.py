import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.params import Augmentation
from stages.train.augment import augment
from stages.train.input_pipeline import steps_per_epoch, training_batches

PLAIN = Augmentation(
    horizontal_flip=False,
    crop_scale=1.0,
    crop_aspect=1.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
)
FLIP = PLAIN.model_copy(update={"horizontal_flip": True})


def _numbered(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose left half tells their number, and masks that equal one of their channels."""
    images = np.zeros((examples, 6, 6, 3), np.uint8)
    images[:, :, :3] = np.arange(1, examples + 1)[:, None, None, None]
    return images, images[..., 0].copy()


def _epochs(examples: int, batch_size: int, epochs: int, seed: int, what: Augmentation) -> list:
    images, masks = _numbered(examples)
    dataset = training_batches(
        images,
        masks,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        augmentation=what,
        image_size=6,
    )
    batches = list(dataset.as_numpy_iterator())
    steps = steps_per_epoch(examples, batch_size)
    assert len(batches) == epochs * steps
    return [batches[start : start + steps] for start in range(0, len(batches), steps)]


def _numbers(epoch: list) -> list[int]:
    return [int(number) for images, _ in epoch for number in images.max(axis=(1, 2, 3))]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    examples=st.integers(1, 40),
    batch_size=st.integers(1, 16),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**31 - 1),
)
def test_each_epoch_has_every_example_once(
    examples: int, batch_size: int, epochs: int, seed: int
) -> None:
    for epoch in _epochs(examples, batch_size, epochs, seed, FLIP):
        assert sorted(_numbers(epoch)) == list(range(1, examples + 1))
        assert all(len(images) == batch_size for images, _ in epoch[:-1])


def test_image_and_mask_are_flipped_in_one_draw() -> None:
    for epoch in _epochs(40, 8, 3, 0, FLIP):
        for images, masks in epoch:
            np.testing.assert_array_equal(images[..., 0], masks)
            assert images.dtype == masks.dtype == np.uint8


def test_order_and_flips_are_drawn_anew_in_each_epoch() -> None:
    first, second, third = _epochs(40, 8, 3, 0, FLIP)
    assert _numbers(first) != _numbers(second) != _numbers(third)

    def flipped(epoch: list) -> set[int]:
        return {int(image.max()) for images, _ in epoch for image in images if image[0, 0, 0] == 0}

    assert flipped(first) != flipped(second)
    draws = [len(flipped(epoch)) for epoch in _epochs(40, 8, 30, 0, FLIP)]
    assert 0.4 < np.mean(draws) / 40 < 0.6
    assert not flipped(_epochs(40, 8, 1, 0, PLAIN)[0])


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    def pixels(seed: int) -> np.ndarray:
        return np.concatenate(
            [images for epoch in _epochs(20, 8, 2, seed, FLIP) for images, _ in epoch]
        )

    np.testing.assert_array_equal(pixels(1), pixels(1))
    assert (pixels(1) != pixels(2)).any()


def test_an_epoch_does_not_depend_on_how_many_there_are() -> None:
    few, many = _epochs(20, 8, 2, 3, FLIP), _epochs(20, 8, 5, 3, FLIP)
    for (images, _), (same, _) in zip(few[1], many[1], strict=True):
        np.testing.assert_array_equal(images, same)


def test_a_flip_is_keras_flip() -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 3), dtype=np.uint8)
    masks = images[..., 1].copy()
    seed = tf.constant([1, 2], tf.int64)
    changed, _ = augment(tf.constant(images), tf.constant(masks), seed, FLIP, 6)
    mirrored = keras.ops.flip(images, axis=2)
    for original, mirror, image in zip(images, mirrored, changed, strict=True):
        assert (image == original).numpy().all() or (image == mirror).numpy().all()


@pytest.mark.parametrize(("examples", "size", "steps"), [(1, 8, 1), (8, 8, 1), (9, 8, 2)])
def test_the_smaller_last_batch_counts(examples: int, size: int, steps: int) -> None:
    assert steps_per_epoch(examples, size) == steps
