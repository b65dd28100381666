import json
import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from stages.errors import StageError
from stages.evaluate import Measurement, measure, predict, scalars, summary, write_masks
from stages.manifest import Manifest
from stages.records import load_split

NAMES = ["pet", "background", "border"]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A network of one layer, whose logits differ from pixel to pixel."""
    keras.utils.set_random_seed(3)
    images = keras.Input((128, 128, 3))
    scaled = keras.layers.Rescaling(1 / 64)(images)
    return keras.Model(images, keras.layers.Conv2D(3, 5, padding="same")(scaled))


def test_figures_are_those_of_keras_metrics_over_the_whole_split(
    model: keras.Model, records: Path, manifest: Manifest
) -> None:
    measurement = measure(model, records, manifest)
    figures = summary(measurement, NAMES)
    images, masks = load_split(records, manifest, "test")
    logits = model(images)
    mean_iou = keras.metrics.MeanIoU(3, sparse_y_pred=False)
    mean_iou.update_state(masks, logits)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    accuracy.update_state(masks, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(masks, logits)
    assert figures["images"] == len(images) == 6
    assert figures["mean_iou"] == pytest.approx(float(mean_iou.result()), abs=1e-5)
    assert figures["accuracy"] == pytest.approx(float(accuracy.result()), abs=1e-5)
    assert figures["loss"] == pytest.approx(float(loss), abs=1e-5)
    matrix = tf.math.confusion_matrix(masks.ravel(), predict(model, images).ravel()).numpy()
    assert figures["confusion_matrix"] == matrix.tolist()
    for index, name in enumerate(NAMES):
        one = keras.metrics.IoU(3, [index], sparse_y_pred=False)
        one.update_state(masks, logits)
        iou = float(one.result())
        assert figures["iou"][name] == pytest.approx(iou, abs=1e-5)
        assert figures["dice"][name] == pytest.approx(2 * iou / (1 + iou), abs=1e-5)


def test_a_class_that_is_nowhere_has_no_iou_and_is_left_out_of_the_mean() -> None:
    matrix = np.array([[[0, 0, 0], [0, 30, 10], [0, 10, 50]]])
    figures = summary(Measurement(matrix, 0.5), NAMES)
    assert figures["iou"] == {"pet": None, "background": 0.6, "border": round(50 / 70, 6)}
    assert figures["mean_iou"] == pytest.approx((0.6 + 50 / 70) / 2, abs=1e-6)
    assert "NaN" not in json.dumps(figures)
    assert "iou_pet" not in scalars(figures)
    assert scalars(figures)["iou_background"] == 0.6


def test_logits_that_are_no_numbers_stop_the_stage_and_name_the_picture(
    records: Path, manifest: Manifest
) -> None:
    images = keras.Input((128, 128, 3))
    broken = keras.Model(
        images, keras.ops.log(-keras.layers.Conv2D(3, 1, kernel_initializer="ones")(images))
    )
    with pytest.raises(StageError, match=r"gives no finite number for \w+\.jpg"):
        measure(broken, records, manifest)


def test_an_empty_split_is_refused(model: keras.Model, records: Path, manifest: Manifest) -> None:
    empty = manifest.splits["test"].model_copy(update={"examples": 0, "shards": []})
    without = manifest.model_copy(update={"splits": manifest.splits | {"test": empty}})
    with pytest.raises(StageError, match="test split has no examples"):
        measure(model, records, without)


def test_masks_come_back_from_their_picture(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 3, (4, 16, 16), dtype=np.uint8)
    path = tmp_path / "masks.png"
    write_masks(masks, path)
    picture = Image.open(path)
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture).reshape(4, 16, 16), masks)


def test_the_loss_of_a_network_that_knows_nothing_is_that_of_chance(
    records: Path, manifest: Manifest
) -> None:
    images = keras.Input((128, 128, 3))
    zeros = keras.layers.Conv2D(3, 1, kernel_initializer="zeros")(images)
    assert measure(keras.Model(images, zeros), records, manifest).loss == pytest.approx(math.log(3))
