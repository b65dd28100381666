"""TFRecords of images and masks: how an example is stored, and how a split is read back."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest, Shard, Split, checked_file, file_sha256
from stages.stage import StageError


class Example(NamedTuple):
    """One example at its stored size."""

    image: npt.NDArray[np.uint8]  # [height, width, 3], 0 to 255
    mask: npt.NDArray[np.uint8]  # [height, width], 0 pet, 1 background, 2 border
    file_name: str
    label: int  # breed; -1 where the dataset has none
    species: int  # -1 where the dataset has none


_FEATURES = {
    **dict.fromkeys(("image", "mask", "file_name"), tf.io.FixedLenFeature((), tf.string)),
    **dict.fromkeys(("label", "species"), tf.io.FixedLenFeature((), tf.int64)),
}


def serialize(example: Example) -> bytes:
    """Serialize an example, its pixels raw: reading is a copy, not a decoding."""
    record = tf.train.Example()
    feature = record.features.feature
    feature["image"].bytes_list.value.append(example.image.tobytes())
    feature["mask"].bytes_list.value.append(example.mask.tobytes())
    feature["file_name"].bytes_list.value.append(example.file_name.encode())
    feature["label"].int64_list.value.append(example.label)
    feature["species"].int64_list.value.append(example.species)
    # Without `deterministic` the order of the features, and so the bytes, may differ.
    return record.SerializeToString(deterministic=True)


class ShardWriter:
    """Writes a split to TFRecord files of `shard_size` examples, which `close` names."""

    def __init__(self, folder: Path, split: str, shard_size: int) -> None:
        self._pixels = np.zeros(len(CLASS_NAMES), np.int64)  # of each class
        self._folder, self._split, self._shard_size = folder, split, shard_size
        self._counts: list[int] = []
        self._writer: tf.io.TFRecordWriter | None = None

    def write(self, example: Example) -> None:
        """Append one example."""
        if self._writer and self._counts[-1] == self._shard_size:
            self._writer.close()
            self._writer = None
        if not self._writer:
            self._writer = tf.io.TFRecordWriter(str(self._part(len(self._counts))))
            self._counts.append(0)
        self._writer.write(serialize(example))
        self._counts[-1] += 1
        self._pixels += np.bincount(example.mask.ravel(), minlength=len(CLASS_NAMES))

    def close(self) -> Split:
        """Finish the last file; raises StageError if no example was written."""
        if self._writer is None:
            raise StageError(
                f"the {self._split} split would have no examples: take more of the dataset"
                " (train_split) or change validation_share in params.yaml"
            )
        self._writer.close()
        shards = []
        for index, examples in enumerate(self._counts):
            name = f"{self._split}-{index:05d}-of-{len(self._counts):05d}.tfrecord"
            path = self._part(index).rename(self._folder / name)
            shards.append(Shard(file=name, examples=examples, sha256=file_sha256(path)))
        shares = (self._pixels / self._pixels.sum()).round(6).tolist()
        by_name = dict(zip(CLASS_NAMES, shares, strict=True))
        return Split(examples=sum(self._counts), class_shares=by_name, shards=shards)

    def _part(self, index: int) -> Path:
        return self._folder / f"{self._split}-{index:05d}.part"


def parse(serialized: tf.Tensor, image_size: int) -> dict[str, tf.Tensor]:
    """Parse serialized examples, strings [batch], of images of one size.

    Returns:
        image uint8 [batch, height, width, 3], mask uint8 [batch, height, width],
        file_name string [batch], label int64 [batch], species int64 [batch].
    """
    features = tf.io.parse_example(serialized, _FEATURES)
    image = tf.io.decode_raw(features["image"], tf.uint8)
    mask = tf.io.decode_raw(features["mask"], tf.uint8)
    return {
        **features,
        "image": tf.reshape(image, (-1, image_size, image_size, 3)),
        "mask": tf.reshape(mask, (-1, image_size, image_size)),
    }


def batches(folder: Path, manifest: Manifest, split: str, batch_size: int) -> tf.data.Dataset:
    """The examples of a split in their stored order, as `parse` gives them.

    Raises StageError where a file is missing or not the one that `prepare` wrote.
    """
    shards = manifest.splits[split].shards
    files = [str(checked_file(folder, shard.file, shard.sha256)) for shard in shards]
    dataset = tf.data.TFRecordDataset(files, buffer_size=1 << 20).batch(batch_size)
    return dataset.map(
        lambda serialized: parse(serialized, manifest.split_image_size(split)),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)


def load_split(
    folder: Path, manifest: Manifest, split: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read a split: images uint8 [example, height, width, 3], masks [example, height, width]."""
    count, size = manifest.splits[split].examples, manifest.split_image_size(split)
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), np.uint8)
    start = 0
    for batch in batches(folder, manifest, split, 64).as_numpy_iterator():
        stop = start + len(batch["image"])
        images[start:stop], masks[start:stop] = batch["image"], batch["mask"]
        start = stop
    return images, masks
