"""What the benchmarks compute is right; how fast anything is, is not a matter of a test."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.params import Params
from stages.prepare.source import open_dataset
from stages.stage import StageError
from tests.benchmarks import notebook
from tests.benchmarks.__main__ import line
from tests.benchmarks.measuring import changed, interleaved, pair
from tests.benchmarks.step_speed import pipeline_of_recipe


def test_actions_take_turns_and_the_first_round_is_not_kept() -> None:
    calls: list[str] = []

    def action(name: str) -> int:
        calls.append(name)
        return len(calls)

    found = interleaved({"a": lambda: action("a"), "b": lambda: action("b")}, rounds=3)
    assert "".join(calls) == "abbaabba"
    assert found == {"a": [4, 5, 8], "b": [3, 6, 7]}


def test_ratios_are_those_of_each_round_and_goals_are_those_of_medians() -> None:
    rows = pair({"a": [1, 6, 9], "b": [2, 3, 4]}, ("a", "b"), ">= 2.1", "x: ")
    assert [row.what for row in rows] == ["x: a", "x: b", "x: a / b"]
    assert [row.values for row in rows] == [[1, 6, 9], [2, 3, 4], [0.5, 2, 2.25]]
    assert [row.verdict for row in rows] == ["", "", "missed"]
    assert rows[2]._replace(goal="<= 2.1").verdict == "reached"
    assert line(rows[2]).split() == ["x:", "a", "/", "b", "2", "0.5", "2.25", ">=", "2.1", "missed"]


def test_steps_are_timed_on_the_images_of_the_networks_recipe(params: Params) -> None:
    other = changed(params, pipeline_of_recipe("unet"))
    assert (other.train_image_scale, other.augmentation.crop_scale) == (1.5, 0.6)
    assert (other.epochs, other.loss, other.unet) == (params.epochs, params.loss, params.unet)
    assert pipeline_of_recipe("a_new_network") == {}
    with pytest.raises(StageError, match=r"unet\.depth"):
        changed(params, {"unet.depth": 3})


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
    # The loss cuts fractions off.
    logits = np.random.default_rng(0).normal(size=(12, 64, 64, 3)).astype(np.float32)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(loss(masks, logits)) == float(loss(np.floor(masks), logits))


def test_the_notebooks_network_takes_images_without_scaling_them(params: Params) -> None:
    model = notebook.compiled(params.unet, 32, 3)
    assert model.input_shape == (None, 32, 32, 3)
    assert not any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    assert not model.get_layer("encoder").trainable_variables
    assert model.count_params() == 6_504_227
