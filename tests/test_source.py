import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from stages.prepare.source import RawExample, class_names, count, decode, open_dataset, read_split
from stages.records.photograph import read_photograph
from stages.stage import StageError
from tests.encoding import encoded

IMAGE = np.full((20, 30, 3), 50, np.uint8)
MASK = np.full((20, 30), 2, np.uint8)
FEATURES = {
    "image": tfds.features.Image(shape=(None, None, 3)),
    "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
}


def _prepared(folder: Path, name: str, examples: int = 3, **features: Any) -> Any:
    """A TFDS dataset of images, masks and what a test adds or takes away (None) of features."""
    values = {"image": IMAGE, "segmentation_mask": MASK[..., None], "label": "b"}
    kept = {key: feature for key, feature in (FEATURES | features).items() if feature}
    example = {key: values[key] for key in kept}
    builder = tfds.dataset_builders.AdhocBuilder(
        name=name,
        version="2.1.0",
        features=tfds.features.FeaturesDict(kept),
        split_datasets={"train": [(number, example) for number in range(examples)]},
        data_dir=folder,
    )
    builder.download_and_prepare()
    return builder


def test_synthetic_pets_are_drawn_without_a_network_and_decoded_as_predictions_decode_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.Session, "request", None)
    builder = open_dataset("synthetic_pets/tiny", tmp_path)
    assert (builder.info.name, count(builder, "train", "train_split")) == ("synthetic_pets", 12)
    assert class_names(builder, "species") == ["Cat", "Dog"]
    for stored in read_split(builder, "train"):
        image, trimap = decode(stored)
        assert set(np.unique(np.asarray(trimap))) <= {1, 2, 3}
        assert stored.file_name.endswith(".jpg")
        photograph = read_photograph(stored.image)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(photograph))


def test_a_dataset_may_have_images_and_masks_alone(tmp_path: Path) -> None:
    first, *_, last = read_split(builder := _prepared(tmp_path, "pairs"), "train")
    assert (first.label, first.species) == (-1, -1)
    assert (first.file_name, last.file_name) == tuple(
        f"pairs-train.tfrecord-00000-of-00001__{number}" for number in (0, 2)
    )
    assert class_names(builder, "label") == []
    labels = tfds.features.ClassLabel(names=["a", "b"])
    labelled = _prepared(tmp_path, "labelled", label=labels)
    assert [raw.label for raw in read_split(labelled, "train")] == [1, 1, 1]
    assert class_names(labelled, "label") == ["a", "b"]


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        *(
            (encoded(IMAGE), encoded(np.full_like(MASK, value)), rf"holds the values \[{value}\]")
            for value in (0, 4, 255)
        ),
        (
            encoded(IMAGE),
            encoded(MASK[:, :-1]),
            r"has .* the size \(29, 20\); .* image, \(30, 20\)",
        ),
        (encoded(IMAGE), encoded(IMAGE), "has the mode RGB .* needed are one channel"),
        *(
            (encoded(IMAGE), broken, "cannot be decoded")
            for broken in (b"", b"x", encoded(MASK)[:50])
        ),
        *(
            (broken, encoded(MASK), "cannot be decoded")
            for broken in (b"", b"x", encoded(IMAGE)[:50])
        ),
    ],
)
def test_an_image_and_a_mask_that_do_not_fit_are_named(
    image: bytes, mask: bytes, message: str
) -> None:
    of = "image" if mask == encoded(MASK) else "segmentation_mask"
    with pytest.raises(StageError, match=rf"^the {of} of cat\.jpg {message}.*$"):
        decode(RawExample(image, mask, "cat.jpg", -1, -1))


def test_damage_is_named_by_the_example_before_it_and_not_sooner(tmp_path: Path) -> None:
    """An example without a mask, and a file that is cut off."""
    builder = _prepared(tmp_path, "damaged", 200)
    (shard,) = Path(builder.data_dir).glob("*.tfrecord*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20])
    reader = read_split(builder, "train")
    assert all(next(reader).label == -1 for _ in range(5))
    with pytest.raises(StageError, match=r"the example after .*__198 of damaged.* cannot be read"):
        list(reader)
    shard.write_bytes(whole)
    stored = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    maskless = tf.train.Example.FromString(stored[1])
    del maskless.features.feature["segmentation_mask"]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in (stored[0], maskless.SerializeToString(), *stored[2:]):
            writer.write(record)
    message = (
        r"^the example after damaged-train\S+__0 of damaged/2.1.0, train .*segmentation_mask.*$"
    )
    with pytest.raises(StageError, match=message):
        list(read_split(builder, "train"))


def test_a_split_that_is_not_there_or_empty_names_the_key(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "split")
    for split in ("validation", "train[", "train[:0]", "../train"):
        with pytest.raises(
            StageError, match=r"params\.yaml: train_split: .*it has the splits train"
        ):
            count(builder, split, "train_split")
    emptied = builder.info.splits["train"].replace(shard_lengths=[0])
    builder.info.set_splits(tfds.core.SplitDict([emptied]))
    with pytest.raises(StageError, match=r"train_split: .*no examples in 'train'"):
        count(builder, "train", "train_split")


@pytest.mark.parametrize(
    "name", ["oxford_iit_pet", "oxford_iiit_pet:3.0.0", "../../etc/passwd", "synthetic_pets/huge"]
)
def test_a_name_that_does_not_exist_says_which_do(tmp_path: Path, name: str) -> None:
    message = rf"^params\.yaml: dataset: '{re.escape(name)}' is not available \(.*; use synthetic_"
    with pytest.raises(StageError, match=message):
        open_dataset(name, tmp_path)


def test_masks_that_are_missing_or_not_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mask in {
        "maskless": None,
        "tensors": tfds.features.Tensor(shape=(20, 30, 1), dtype=np.uint8),
    }.items():
        builder = _prepared(tmp_path, name, segmentation_mask=mask)
        monkeypatch.setattr(tfds, "builder", lambda name, builder=builder: builder)
        with pytest.raises(StageError, match=rf"segmentation_mask of {name}/2.1.0 is .*uint8 Im"):
            open_dataset(name, tmp_path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.ConnectionError("Max retries\n(...)"), ": no connection. Set TFDS_DATA_DIR"),
        (requests.HTTPError("404 Not Found\nfor url"), ": 404 Not Found. Set TFDS_DATA_DIR"),
    ],
)
def test_a_failed_download_names_both_ways_out_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    monkeypatch.setattr(requests, "head", Mock(side_effect=error))
    builder = tfds.builder("oxford_iiit_pet", data_dir=tmp_path)
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    message = (
        rf"^oxford_iiit_pet/4\.0\.0 is not in {tmp_path} .*811 MB from https://\S+/~vgg/data/pets/"
        rf".*{reason}.*`-S dataset=synthetic_pets`$"
    )
    with pytest.raises(StageError, match=message):
        open_dataset("oxford_iiit_pet", tmp_path)
    assert not list(tmp_path.rglob("*.tfrecord*"))
