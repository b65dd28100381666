"""The real dataset, where TFDS_DATA_DIR or TFDS' own folder has it; nothing is downloaded."""

import os
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.metrics import jaccard_score

from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.prepare.source import read_split
from stages.records.manifest import BASELINE_FILE, read_manifest
from stages.records.tfrecords import batches, load_split
from stages.train.loop import train
from tests.kept_run import KeptRun

pytestmark = pytest.mark.skipif(
    not tfds.builder("oxford_iiit_pet").is_prepared(),
    reason="oxford_iiit_pet is not prepared in TFDS_DATA_DIR or in TFDS' default folder",
)
SIZE = 128
KERAS_HOME = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
WEIGHTS = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{SIZE}_no_top.h5"


@pytest.fixture(scope="module")
def real_params(params: Params) -> Params:
    splits = {"train_split": "train[:64]", "test_split": "test[:24]", "validation_share": 0.1}
    changes = {"dataset": "oxford_iiit_pet", "batch_size": 8, "warmup_epochs": 0}
    return params.model_copy(update=changes | splits)


@pytest.fixture(scope="module")
def real_records(real_params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oxford")
    write_records(real_params, folder, folder)
    return folder


def test_records_are_those_of_real_photographs(real_records: Path) -> None:
    manifest = read_manifest(real_records)
    assert (manifest.version, len(manifest.label_names)) == ("4.0.0", 37)
    assert manifest.splits["train"].examples + manifest.splits["validation"].examples == 64
    images, masks = load_split(real_records, manifest, "test")
    assert images.shape == (24, SIZE, SIZE, 3)
    assert images.std() > 40
    # The background (1) is the largest class and the border (2) the smallest.
    pet, background, border = np.bincount(masks.ravel()) / masks.size
    assert background > pet > border > 0.05


def test_a_folder_of_real_photographs_gives_the_records_that_tfds_gives(
    real_params: Params, real_records: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    for split, folder in ((real_params.train_split, own), (real_params.test_split, own / "test")):
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True)
        for example in read_split(tfds.builder("oxford_iiit_pet"), split):
            (folder / "images" / example.file_name).write_bytes(example.image)
            mask = (folder / "masks" / example.file_name).with_suffix(".png")
            mask.write_bytes(example.trimap)
    (tmp_path / "records").mkdir()
    params = real_params.model_copy(
        update={"dataset": "own", "own": real_params.own.model_copy(update={"folder": str(own)})}
    )
    found = write_records(params, tmp_path / "records", tmp_path)
    assert found.other_files == read_manifest(real_records).other_files
    for split in ("train", "validation", "test"):
        one, other = (
            next(batches(folder, read_manifest(folder), split, 64).as_numpy_iterator())
            for folder in (tmp_path / "records", real_records)
        )
        for key in ("image", "mask", "file_name"):
            np.testing.assert_array_equal(one[key], other[key])


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
    model, _ = train("unet", pretrained, manifest, real_records, KeptRun())
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == 4_660_323
    images, masks = load_split(real_records, manifest, "test")
    predicted = np.asarray(model(images.astype(np.float32))).argmax(axis=-1)
    baseline = np.broadcast_to(np.load(real_records / BASELINE_FILE), masks.shape)
    learned, constant = (
        jaccard_score(masks.ravel(), classes.ravel(), average="macro")
        for classes in (predicted, baseline)
    )
    assert learned > constant + 0.05
    with h5py.File(KERAS_HOME / "models" / WEIGHTS) as original:
        for layer in model.get_layer("encoder").layers[1:]:
            theirs = original[layer.name]
            expected = [theirs[name][()] for name in theirs.attrs["weight_names"]]
            np.testing.assert_equal(layer.get_weights(), expected)
