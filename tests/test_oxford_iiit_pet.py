"""The real dataset, where TFDS_DATA_DIR or TFDS' own folder has it; nothing is downloaded."""

import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data.synthetic_pets.builder import SyntheticPets
from stages.evaluate.measurement import measure
from stages.evaluate.results import results
from stages.networks.unet import network as unet
from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.prepare.source import class_names, decode, open_dataset, read_split
from stages.records.manifest import BASELINE_FILE, Manifest, read_manifest
from stages.records.tfrecords import load_split
from stages.train.__main__ import train

BUILDER = tfds.builder("oxford_iiit_pet")
pytestmark = pytest.mark.skipif(
    not BUILDER.is_prepared(),
    reason="oxford_iiit_pet is not prepared in TFDS_DATA_DIR or in TFDS' default folder",
)
WEIGHTS = (
    Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    / "models"
    / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_128_no_top.h5"
)


@pytest.fixture(scope="module")
def real_params(params: Params) -> Params:
    return params.model_copy(
        update={
            "dataset": "oxford_iiit_pet",
            "train_split": "train[:160]",
            "test_split": "test[:40]",
            "batch_size": 8,
            "epochs": 3,
        }
    )


@pytest.fixture(scope="module")
def real_records(real_params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oxford")
    write_records(real_params, folder, folder)
    return folder


@pytest.fixture(scope="module")
def real_manifest(real_records: Path) -> Manifest:
    return read_manifest(real_records)


def test_synthetic_pets_have_the_same_features(tmp_path: Path) -> None:
    drawn = SyntheticPets(data_dir=tmp_path, config="tiny").info.features
    real = BUILDER.info.features
    for name in ("image", "segmentation_mask", "label", "species", "file_name"):
        assert type(drawn[name]) is type(real[name])
        assert drawn[name].dtype == real[name].dtype
        assert drawn[name].shape == real[name].shape
    assert class_names(BUILDER, "species") == drawn["species"].names


def test_masks_are_trimaps_with_pet_1_background_2_border_3() -> None:
    builder = open_dataset("oxford_iiit_pet", Path())
    counts = np.zeros(4, np.int64)
    for raw in map(decode, read_split(builder, "test[:24]")):
        counts += np.bincount(np.asarray(raw.trimap).ravel(), minlength=4)
    shares = counts / counts.sum()
    assert shares[0] == 0
    # The background is the largest class and the border the smallest.
    assert shares[2] > shares[1] > shares[3] > 0.05


def test_records_of_real_photographs(real_records: Path, real_manifest: Manifest) -> None:
    assert real_manifest.version == "4.0.0"
    assert len(real_manifest.label_names) == 37
    sizes = {name: split.examples for name, split in real_manifest.splits.items()}
    assert sizes["train"] + sizes["validation"] == 160
    assert sizes["test"] == 40
    images, masks = load_split(real_records, real_manifest, "test")
    assert images.shape == (40, 128, 128, 3)
    assert images.std() > 40
    assert set(np.unique(masks)) == {0, 1, 2}


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="ImageNet weights are not under KERAS_HOME")
def test_a_pretrained_unet_learns_real_photographs_in_a_minute(
    real_params: Params,
    real_records: Path,
    real_manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Run:
        run_id = ""

        def log_epoch(
            self, row: Mapping[str, float], *, seconds: float, images_per_second: float
        ) -> None:
            assert seconds > images_per_second**-1 > 0

    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    frozen = real_params.unet.model_copy(
        update={"encoder_weights": "imagenet", "train_encoder": False}
    )
    pretrained = real_params.model_copy(update={"unet": frozen})
    model, _ = train("unet", pretrained, real_manifest, real_records, Run())
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 4_660_323
    baseline = np.load(real_records / BASELINE_FILE)
    measurement = measure(model, real_records, real_manifest, baseline)
    figures = results(measurement, real_manifest, seed=0)
    assert figures["accuracy"] > figures["baseline"]["accuracy"] + 0.02
    assert figures["mean_iou"] > figures["baseline"]["mean_iou"] + 0.02


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="ImageNet weights are not under KERAS_HOME")
def test_imagenet_weights_are_those_of_keras_applications(params: Params) -> None:
    wanted = params.unet.model_copy(update={"encoder_weights": "imagenet"})
    encoder = unet.build(wanted, 128, 3).get_layer("encoder")
    original = keras.applications.MobileNetV2((128, 128, 3), include_top=False)
    for layer in encoder.layers[1:]:
        for mine, theirs in zip(
            layer.get_weights(), original.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
