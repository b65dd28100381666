"""What the benchmarks compute is right; how fast anything is, is not a matter of a test."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from stages.params import Params
from stages.prepare.source import open_dataset
from tests.benchmarks import notebook
from tests.benchmarks.measuring import changed, compared
from tests.benchmarks.step_speed import pipeline_of_recipe


def test_actions_take_turns_and_the_goal_is_that_of_the_median_of_each_rounds_ratio() -> None:
    calls: list[str] = []

    def action(name: str) -> int:
        calls.append(name)
        return len(calls)

    rows = compared("x", {"a": lambda: action("a"), "b": lambda: action("b")}, 3, goal=1.4)
    assert "".join(calls) == "abbaabba"  # the first round is not kept
    assert [row.what for row in rows] == ["x: a", "x: b", "x: a / b"]
    assert [row.values for row in rows] == [[4, 5, 8], [3, 6, 7], [4 / 3, 5 / 6, 8 / 7]]
    assert str(rows[0]).split() == ["x:", "a", "5", "4", "8", "images/s"]
    assert str(rows[2]).endswith("1.143   0.8333    1.333 at least 1.4: missed")
    assert str(rows[2]._replace(goal=1.1)).endswith("at least 1.1: reached")


def test_steps_are_timed_on_the_images_of_the_networks_recipe(params: Params) -> None:
    other = changed(params, pipeline_of_recipe("unet"))
    assert (other.train_image_scale, other.augmentation.crop_scale) == (1.5, 0.6)
    assert (other.epochs, other.loss, other.unet) == (params.epochs, params.loss, params.unet)
    assert pipeline_of_recipe("a_new_network") == {}


def test_the_notebook_mirrors_once_for_all_epochs_and_blurs_its_masks(scratch: Path) -> None:
    builder = open_dataset("synthetic_pets/tiny", scratch)
    keras.utils.set_random_seed(0)
    examples = notebook.examples(builder, "train", 64)
    first, second = (np.stack([image for image, _ in examples]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    plain = np.stack(
        [tf.image.resize(each["image"], (64, 64)) / 255 for each in builder.as_dataset("train")]
    )
    mirrored = [not np.allclose(*each) for each in zip(first, plain, strict=True)]
    assert 0 < sum(mirrored) < 12
    np.testing.assert_allclose(first[mirrored], plain[mirrored][:, :, ::-1], atol=1e-6)
    masks = np.stack([mask for _, mask in examples])
    assert (masks.shape, masks.min(), masks.max()) == ((12, 64, 64, 1), 0, 2)
    assert 0.01 < np.mean(masks % 1 != 0) < 0.5


def test_the_notebooks_network_takes_images_without_scaling_them(params: Params) -> None:
    model = notebook.compiled(params.unet, 32, 3)
    assert model.input_shape == (None, 32, 32, 3)
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    assert not model.get_layer("encoder").trainable_variables
