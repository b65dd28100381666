"""The real dataset, where TFDS_DATA_DIR or TFDS' own folder has it; nothing is downloaded."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.metrics import accuracy_score, jaccard_score

from data.synthetic_pets.builder import SyntheticPets
from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.prepare.source import class_names
from stages.records.manifest import BASELINE_FILE, read_manifest
from stages.records.tfrecords import load_split
from stages.train.__main__ import train

BUILDER = tfds.builder("oxford_iiit_pet")
pytestmark = pytest.mark.skipif(
    not BUILDER.is_prepared(),
    reason="oxford_iiit_pet is not prepared in TFDS_DATA_DIR or in TFDS' default folder",
)
SIZE = 128
KERAS_HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
WEIGHTS = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{SIZE}_no_top.h5"


@pytest.fixture(scope="module")
def real_params(params: Params) -> Params:
    splits = {"train_split": "train[:96]", "test_split": "test[:32]"}
    changes = {"dataset": "oxford_iiit_pet", "batch_size": 8, "image_size": SIZE, **splits}
    return params.model_copy(update=changes)


@pytest.fixture(scope="module")
def real_records(real_params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oxford")
    write_records(real_params, folder, folder)
    return folder


def test_synthetic_pets_have_the_same_features(tmp_path: Path) -> None:
    drawn = SyntheticPets(data_dir=tmp_path, config="tiny").info.features
    real = BUILDER.info.features
    for name in ("image", "segmentation_mask", "label", "species", "file_name"):
        assert type(drawn[name]) is type(real[name])
        assert drawn[name].dtype == real[name].dtype
        assert drawn[name].shape == real[name].shape
    assert class_names(BUILDER, "species") == drawn["species"].names


def test_records_of_real_photographs(real_records: Path) -> None:
    manifest = read_manifest(real_records)
    assert manifest.version == "4.0.0"
    assert len(manifest.label_names) == 37
    assert manifest.splits["train"].examples + manifest.splits["validation"].examples == 96
    images, masks = load_split(real_records, manifest, "test")
    assert images.shape == (32, SIZE, SIZE, 3)
    assert images.std() > 40
    # The background (1) is the largest class and the border (2) the smallest.
    pet, background, border = np.bincount(masks.ravel()) / masks.size
    assert background > pet > border > 0.05


@pytest.mark.skipif(
    not (KERAS_HOME / "models" / WEIGHTS).is_file(), reason="no ImageNet weights under KERAS_HOME"
)
def test_a_unet_with_the_encoder_of_keras_applications_learns_real_photographs(
    real_params: Params, real_records: Path
) -> None:
    frozen = {"encoder_weights": "imagenet", "train_encoder": False}
    unet = real_params.unet.model_copy(update=frozen)
    pretrained = real_params.model_copy(update={"unet": unet})
    manifest = read_manifest(real_records)
    run: Any = SimpleNamespace(run_id="", log_epoch=lambda row, **speed: None)
    model, _ = train("unet", pretrained, manifest, real_records, run)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 4_660_323
    images, masks = load_split(real_records, manifest, "test")
    predicted = np.asarray(model(images.astype(np.float32))).argmax(axis=-1).ravel()
    baseline = np.broadcast_to(np.load(real_records / BASELINE_FILE), masks.shape).ravel()
    masks = masks.ravel()
    assert accuracy_score(masks, predicted) > accuracy_score(masks, baseline) + 0.02
    assert (
        jaccard_score(masks, predicted, average="macro")
        > jaccard_score(masks, baseline, average="macro") + 0.05
    )
    original = keras.applications.MobileNetV2((SIZE, SIZE, 3), include_top=False)
    for layer in model.get_layer("encoder").layers[1:]:
        theirs = original.get_layer(layer.name).get_weights()
        for index, weights in enumerate(layer.get_weights()):
            np.testing.assert_array_equal(weights, theirs[index])
