"""What the benchmarks count and draw is right; how fast anything is, is no matter of a test."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

from stages.networks.conv_deconv import network as conv_deconv
from stages.params import Params
from stages.prepare.source import open_dataset
from stages.stage import StageError
from tests.benchmarks import notebook_recipe
from tests.benchmarks.__main__ import table
from tests.benchmarks.flops import forward_flops
from tests.benchmarks.setting import changed, parsed_changes
from tests.benchmarks.step_speed import pipeline_of_recipe
from tests.benchmarks.timing import Row, interleaved, pair, ratios


def test_actions_take_turns_and_the_first_round_is_not_kept() -> None:
    calls: list[str] = []

    def action(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = interleaved({"a": lambda: action("a"), "b": lambda: action("b")}, rounds=3)
    assert "".join(calls) == "abbaabba"
    assert found == {"a": [4, 5, 8], "b": [3, 6, 7]}


def test_ratios_are_those_of_each_round_and_goals_are_those_of_medians() -> None:
    assert ratios([1, 6, 9], [2, 3, 4]) == [0.5, 2, 2.25]
    rows = pair({"a": [1, 6, 9], "b": [2, 3, 4]}, ("a", "b"), "s", ">= 2.1", "x: ")
    assert [row.what for row in rows] == ["x: a", "x: b", "x: a / b"]
    assert [row.median for row in rows] == [6, 3, 2]
    assert [row.reached for row in rows] == [None, None, False]
    assert Row("x", [1.05, 1.2, 1.0], goal="<= 1.1").reached
    record = rows[2].record()
    assert (record["lowest"], record["highest"], record["reached"]) == (0.5, 2.25, False)
    lines = table(rows).splitlines()
    assert lines[3].split() == ["x:", "a", "/", "b", "2", "0.5", "2.25", ">=", "2.1", "missed"]


def test_changes_reach_into_groups_and_are_checked(params: Params) -> None:
    changes = parsed_changes(["epochs=3", "unet.learning_rate=0.01", "unet.train_encoder=false"])
    other = changed(params, changes)
    assert (other.epochs, other.unet.learning_rate, other.unet.train_encoder) == (3, 0.01, False)
    assert other.augmentation == params.augmentation
    with pytest.raises(StageError, match="key=value"):
        parsed_changes(["epochs"])
    with pytest.raises(StageError, match=r"unet\.depth"):
        changed(params, {"unet.depth": 3})


def test_steps_are_timed_on_the_pictures_of_the_networks_recipe(params: Params) -> None:
    other = changed(params, pipeline_of_recipe("unet"))
    assert (other.train_image_scale, other.augmentation.crop_scale) == (1.5, 0.6)
    assert (other.epochs, other.loss, other.unet) == (params.epochs, params.loss, params.unet)
    assert pipeline_of_recipe("conv_deconv") == pipeline_of_recipe("a_new_network") == {}


def test_flops_are_those_counted_by_hand() -> None:
    images = keras.Input((8, 8, 3))
    frozen = keras.Sequential([layers.Conv2D(4, 3, strides=2, padding="same")], name="frozen")
    x = layers.DepthwiseConv2D(5, padding="same")(frozen(images))
    x = layers.Conv2DTranspose(2, 3, strides=2, padding="same")(layers.ReLU()(x))
    model = keras.Model(images, x)
    frozen.trainable = False
    flops = forward_flops(model)
    assert flops.frozen == 2 * (4 * 4 * 4) * (3 * 3 * 3)
    # Each of the 4 x 4 inputs of the transposed convolution meets a kernel of 3 x 3 x 4 x 2.
    assert flops.trained == 2 * (4 * 4 * 4) * (5 * 5) + 2 * (4 * 4) * (3 * 3 * 4 * 2)
    assert flops.training_step == 3 * flops.trained + flops.frozen


def test_flops_of_conv_deconv(params: Params) -> None:
    model = conv_deconv.build(params.conv_deconv, 128, 3)
    products = 64**2 * 27 * 16 + 64**2 * 144 * 32 + 32**2 * (288 * 64 + 576 * 64) + 64**2 * 576 * 3
    assert forward_flops(model) == (2 * products, 0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tfds.core.DatasetBuilder:
    return open_dataset("synthetic_pets/tiny", tmp_path_factory.mktemp("drawn"))


def test_the_notebooks_mirror_images_are_drawn_once_for_all_epochs(
    tiny: tfds.core.DatasetBuilder,
) -> None:
    keras.utils.set_random_seed(0)
    pictures = notebook_recipe.examples(tiny, "train", 64)
    first, second = (np.stack([image for image, _ in pictures]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (12, 64, 64, 3)
    assert (first.dtype, first.min() >= 0, first.max() <= 1) == (np.float32, True, True)
    assert first.max() > 0.5
    plain = np.stack(
        [
            tf.image.resize(example["image"], (64, 64)) / 255
            for example in tiny.as_dataset(split="train")
        ]
    )
    mirrored = [not np.allclose(*each) for each in zip(first, plain, strict=True)]
    assert 0 < sum(mirrored) < 12
    np.testing.assert_allclose(first[mirrored], plain[mirrored][:, :, ::-1], atol=1e-6)


def test_the_notebooks_masks_have_fractions_that_the_loss_cuts_off(
    tiny: tfds.core.DatasetBuilder,
) -> None:
    pictures = notebook_recipe.examples(tiny, "train", 64)
    masks = np.stack([mask for _, mask in pictures])
    assert masks.shape == (12, 64, 64, 1)
    assert (masks.min(), masks.max()) == (0, 2)
    assert 0.01 < np.mean(masks % 1 != 0) < 0.5
    logits = np.random.default_rng(0).normal(size=(12, 64, 64, 3)).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(loss(masks, logits)) == float(loss(np.floor(masks), logits))


def test_the_notebooks_network_takes_images_without_scaling_them(params: Params) -> None:
    model = notebook_recipe.compiled(params.unet, 32, 3)
    assert model.input_shape == (None, 32, 32, 3)
    assert not any(isinstance(layer, layers.Rescaling) for layer in model.layers)
    assert not model.get_layer("encoder").trainable_variables
    assert model.count_params() == 6_504_227
