import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from pets.photograph import read_photograph
from stages.prepare.source import class_names, count, decode, open_dataset, read_split
from stages.stage import StageError


def _builder(
    dataset: str, examples: list[dict[str, Any]], *, labels: bool = False
) -> type[tfds.core.GeneratorBasedBuilder]:
    """A TFDS dataset of these examples, with the features that they need."""

    class Small(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.1.0")
        RELEASE_NOTES: ClassVar[dict[str, str]] = {}
        name = dataset

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
            }
            if labels:
                features["label"] = tfds.features.ClassLabel(names=["a", "b"])
            kept = {key: features[key] for key in features if key in examples[0]}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kept))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            yield from enumerate(examples)

    return Small


def _example(value: int = 1, **changes: Any) -> dict[str, Any]:
    example = {
        "image": np.full((20, 30, 3), 50, np.uint8),
        "segmentation_mask": np.full((20, 30, 1), value, np.uint8),
    }
    return example | changes


def _prepared(tmp_path: Path, name: str, *examples: dict[str, Any], **options: Any) -> Any:
    builder = _builder(name, list(examples), **options)(data_dir=tmp_path)
    builder.download_and_prepare()
    return builder


def test_synthetic_pets_are_drawn_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.Session, "request", None)
    builder = open_dataset("synthetic_pets/tiny", tmp_path)
    assert builder.info.name == "synthetic_pets"
    assert count(builder, "train", "train_split") == 12
    raw = decode(next(read_split(builder, "train")))
    assert (raw.image.mode, raw.image.size) == ("RGB", raw.trimap.size)
    assert set(np.unique(np.asarray(raw.trimap))) <= {1, 2, 3}
    assert raw.file_name.endswith(".jpg")
    assert class_names(builder, "species") == ["Cat", "Dog"]


def test_a_dataset_with_images_and_masks_alone_will_do(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "plain_pairs", _example(1), _example(3))
    first, second = read_split(builder, "train")
    assert (first.label, first.species) == (-1, -1)
    assert first.file_name != second.file_name
    assert "plain_pairs-train" in first.file_name
    assert class_names(builder, "label") == []


def test_labels_are_read_where_there_are_any(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "labelled_pairs", _example(label="b"), labels=True)
    assert [raw.label for raw in read_split(builder, "train")] == [1]
    assert class_names(builder, "label") == ["a", "b"]


@pytest.mark.parametrize("value", [0, 4, 255])
def test_a_mask_with_other_values_is_named(tmp_path: Path, value: int) -> None:
    builder = _prepared(tmp_path, f"values_{value}", _example(2), _example(value))
    with pytest.raises(StageError, match=rf"values_{value}-train.* holds the values \[{value}\]"):
        list(map(decode, read_split(builder, "train")))


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    crooked = _example(segmentation_mask=np.ones((20, 31, 1), np.uint8))
    builder = _prepared(tmp_path, "crooked_pairs", crooked)
    with pytest.raises(StageError, match=r"20 x 31.*20 x 30.*must agree in height and width"):
        list(map(decode, read_split(builder, "train")))


@pytest.mark.parametrize("feature", ["image", "segmentation_mask"])
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path, feature: str) -> None:
    builder = _prepared(tmp_path, f"broken_{feature}", *[_example() for _ in range(3)])
    stored = list(read_split(builder, "train"))[1]
    whole = stored.image if feature == "image" else stored.trimap
    for broken in (b"", b"no picture", whole[: len(whole) // 2]):
        damaged = (
            stored._replace(image=broken) if feature == "image" else stored._replace(trimap=broken)
        )
        with pytest.raises(StageError) as error:
            decode(damaged)
        assert f"the {feature} of {stored.file_name} cannot be decoded" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_mask_of_several_channels_is_named(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "colored_masks", _example())
    (stored,) = read_split(builder, "train")
    with pytest.raises(StageError, match=r"segmentation_mask of .*colored_masks.* mode RGB"):
        decode(stored._replace(trimap=stored.image))


def test_pictures_are_decoded_as_predictions_decode_them(tmp_path: Path) -> None:
    builder = open_dataset("synthetic_pets/tiny", tmp_path)
    for stored in read_split(builder, "train"):
        photograph = read_photograph(stored.image).image
        np.testing.assert_array_equal(np.asarray(decode(stored).image), np.asarray(photograph))


def test_an_image_without_a_mask_is_named_by_the_one_before_it(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "maskless_pairs", *[_example() for _ in range(3)])
    (shard,) = Path(builder.data_dir).glob("*.tfrecord*")
    stored = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    maskless = tf.train.Example.FromString(stored[1])
    del maskless.features.feature["segmentation_mask"]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in (stored[0], maskless.SerializeToString(), stored[2]):
            writer.write(record)
    with pytest.raises(StageError, match="segmentation_mask") as error:
        list(read_split(builder, "train"))
    first = r"the picture after maskless_pairs-train\.tfrecord-00000-of-00001__0 of maskless_pairs"
    assert re.search(first, str(error.value))
    assert "\n" not in str(error.value)


def test_a_dataset_without_examples_is_refused(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "one_pair", _example())
    emptied = builder.info.splits["train"].replace(shard_lengths=[0])
    builder.info.set_splits(tfds.core.SplitDict([emptied]))
    with pytest.raises(StageError, match=r"train_split: .*'train' has no examples"):
        count(builder, "train", "train_split")


def test_a_damaged_dataset_is_one_clear_message(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "damaged_pairs", *[_example() for _ in range(3)])
    (shard,) = Path(builder.data_dir).glob("*.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(StageError, match=r"the picture after .*damaged_pairs.* cannot be read"):
        list(read_split(builder, "train"))


def test_a_split_that_is_not_there_or_empty_names_the_key(tmp_path: Path) -> None:
    builder = _prepared(tmp_path, "one_split", _example())
    for split in ("validation", "train[", "train[:0]", "../train"):
        with pytest.raises(StageError, match=r"params\.yaml: train_split: .*split"):
            count(builder, split, "train_split")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("oxford_iit_pet", "TFDS has no dataset of this name"),
        ("oxford_iiit_pet:3.0.0", "only: 4.0.0"),
        ("../../etc/passwd", "TFDS has no dataset of this name"),
        ("synthetic_pets/huge", "TFDS has no dataset of this name"),
        ("a b", "TFDS has no dataset of this name"),
    ],
)
def test_a_name_that_does_not_exist_says_which_do(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(StageError) as error:
        open_dataset(name, tmp_path)
    message = str(error.value)
    assert message.startswith(f"params.yaml: dataset: {name!r} is not available")
    assert reason in message
    assert "synthetic_pets, oxford_iiit_pet" in message
    assert "\n" not in message


def test_a_dataset_without_masks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = _prepared(tmp_path, "no_masks", {"image": np.zeros((4, 4, 3), np.uint8)})
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    with pytest.raises(StageError, match="no_masks has no segmentation_mask"):
        open_dataset("no_masks", tmp_path)


def test_without_a_network_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, **kwargs: object) -> None:
        raise requests.ConnectionError(f"cannot resolve {url}")

    monkeypatch.setattr(requests, "head", offline)
    builder = tfds.builder("oxford_iiit_pet", data_dir=tmp_path)
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    with pytest.raises(StageError) as error:
        open_dataset("oxford_iiit_pet", tmp_path)
    message = str(error.value)
    assert f"oxford_iiit_pet/4.0.0 is not in {tmp_path}" in message
    assert "811 MB from https://thor.robots.ox.ac.uk/~vgg/data/pets/" in message
    assert ": no connection. Set TFDS_DATA_DIR" in message
    assert "-S dataset=synthetic_pets" in message
    assert "\n" not in message
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_reading_holds_few_examples_at_a_time(tmp_path: Path) -> None:
    """Laziness: the first examples come before a later broken one is looked at."""
    builder = _prepared(tmp_path, "long_split", *[_example(1) for _ in range(200)])
    (shard,) = Path(builder.data_dir).glob("*.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-20])
    reader = read_split(builder, "train")
    for _ in range(5):
        next(reader)
    with pytest.raises(StageError, match=r"the picture after .*__198 of long_split.* be read"):
        list(reader)


def test_features_that_are_no_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = _prepared(tmp_path, "tensor_masks", _example())
    tensor = tfds.features.Tensor(shape=(None, None, 1), dtype=np.uint8)
    monkeypatch.setitem(builder.info.features._feature_dict, "segmentation_mask", tensor)
    monkeypatch.setattr(tfds, "builder", lambda name: builder)
    with pytest.raises(StageError, match=r"segmentation_mask of tensor_masks.* TFDS Image of"):
        open_dataset("tensor_masks", tmp_path)
