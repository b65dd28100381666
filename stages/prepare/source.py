"""The TFDS dataset that the pipeline starts from: found, drawn or downloaded, and checked."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from data.synthetic_pets.builder import SyntheticPets
from stages.params import Own
from stages.prepare.own import OwnPets
from stages.stage import StageError

# TensorFlow takes longer to hand over an example than to read it, so several are read together.
READ_TOGETHER = 16
_IMAGES = ("image", "segmentation_mask")
Pixels = TypeVar("Pixels", bytes, Image.Image)
logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of its own use of an old name


class RawExample(NamedTuple, Generic[Pixels]):
    """One example of the dataset: bytes as its files have them, or Pillow's images."""

    image: Pixels  # JPEG, PNG or BMP; decoded, RGB
    trimap: Pixels  # of the image's size, one channel: 1 pet, 2 background, 3 border
    file_name: str  # or the example's TFDS id where the dataset has no file names
    label: int  # -1 where the dataset has none
    species: int  # -1 where the dataset has none


def open_dataset(name: str, scratch: Path, own: Own | None = None) -> tfds.core.DatasetBuilder:
    """Find a dataset with the uint8 images `image` and `segmentation_mask`, and prepare it.

    Args:
        name: `synthetic_pets`, or a TFDS name such as `oxford_iiit_pet:4.0.0`, looked up in
            TFDS_DATA_DIR or in TFDS' default folder; or `own`.
        scratch: Where synthetic_pets is drawn, or the own images are gathered.
        own: Where these are.

    Raises:
        StageError: The name is unknown, the download failed, or the features do not fit.
    """
    kind, _, config = name.partition("/")
    builder: tfds.core.DatasetBuilder
    if kind == "synthetic_pets" and config in ("", *SyntheticPets.builder_configs):
        builder = SyntheticPets(data_dir=scratch, config=config or None)
    elif name == "own" and own:
        builder = OwnPets(own, data_dir=scratch)
    else:
        builder = _named_builder(name)
        if not builder.is_prepared():
            _download(builder)
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS would speak of a download
        builder.download_and_prepare()
    for key in _IMAGES:
        feature = dict(builder.info.features).get(key)
        if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
            raise StageError(
                f"params.yaml: dataset: {key} of {builder.info.full_name} is {feature};"
                " a TFDS dataset with uint8 Images `image` and `segmentation_mask` is needed"
            )
    return builder


def _named_builder(name: str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name)
    # An unknown version is an AssertionError, an unparsable name a ValueError.
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        raise StageError(
            f"params.yaml: dataset: {name!r} is not available ({_first_line(error)}); use"
            " synthetic_pets, oxford_iiit_pet, or a TFDS dataset with image and segmentation_mask"
        ) from error


def _download(builder: tfds.core.DatasetBuilder) -> None:
    name, urls = builder.info.full_name, builder.url_infos
    try:
        # TFDS itself would retry for minutes before it gives up.
        for url in urls:
            requests.head(url, timeout=20, allow_redirects=True).raise_for_status()
        builder.download_and_prepare()
    except (OSError, tfds.core.download.DownloadError) as error:  # of requests too
        offline = isinstance(error, requests.ConnectionError)  # whose text is a chain of errors
        size = sum(info.size for info in urls.values()) / 1e6
        raise StageError(
            f"{name} is not in {Path(builder.data_path).parent.parent} and could not be downloaded"
            f" ({size:,.0f} MB from {', '.join(urls) or builder.info.homepage}):"
            f" {'no connection' if offline else _first_line(error)}. Set TFDS_DATA_DIR to a folder"
            f" that holds {name}, or work without a network: `-S dataset=synthetic_pets`"
        ) from error


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[RawExample[bytes]]:
    """Read the examples of a TFDS split, slices included, in their stored order, a few at a time.

    Raises:
        StageError: A file of the dataset is damaged, or an example lacks a feature.
    """
    features = builder.info.features
    wanted = {*_IMAGES, "file_name", "label", "species"} & set(features)
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=tfds.ReadConfig(
            interleave_cycle_length=1, try_autocache=False, add_tfds_id="file_name" not in features
        ),
        # Pillow decodes what is learned from as it decodes what is predicted, and on all cores.
        decoders=tfds.decode.PartialDecoding(
            dict.fromkeys(wanted, True), dict.fromkeys(_IMAGES, tfds.decode.SkipDecoding())
        ),
    )
    try:
        for batch in dataset.batch(READ_TOGETHER).prefetch(1).as_numpy_iterator():
            for index in range(len(batch["image"])):
                yield _stored_example({name: values[index] for name, values in batch.items()})
    except tf.errors.OpError as error:
        where = "the first example"  # the batch does not tell which of its examples it is
        with contextlib.suppress(tf.errors.OpError):
            for example in dataset.as_numpy_iterator():
                where = f"the example after {_stored_example(example).file_name}"
        raise StageError(
            f"{where} of {builder.info.full_name}, {split} cannot be read: {_first_line(error)}"
        ) from error


def _stored_example(example: dict) -> RawExample[bytes]:
    name = example["file_name" if "file_name" in example else "tfds_id"].decode(errors="replace")
    label, species = int(example.get("label", -1)), int(example.get("species", -1))
    return RawExample(example["image"], example["segmentation_mask"], name, label, species)


def decode(stored: RawExample[bytes]) -> RawExample[Image.Image]:
    """Decode an example, and check that its image and trimap belong together.

    Raises:
        StageError: One of them cannot be decoded, their sizes differ, or the trimap has more than
            one channel or values other than 1, 2 and 3.
    """
    image = _decoded(stored.image, f"the image of {stored.file_name}")
    if image.mode != "RGB":  # `convert` copies even where there is nothing to convert
        image = image.convert("RGB")
    mask = f"the segmentation_mask of {stored.file_name}"
    trimap = _decoded(stored.trimap, mask)
    if trimap.mode not in ("L", "P"):
        raise StageError(f"{mask} has Pillow's mode {trimap.mode}, not one channel of 8 bits")
    if trimap.size != image.size:
        raise StageError(
            f"{mask} has {trimap.height} x {trimap.width} pixels, but its image has"
            f" {image.height} x {image.width}"
        )
    values = np.asarray(trimap)
    if values.min() < 1 or values.max() > 3:
        raise StageError(
            f"{mask} holds the values {np.unique(values)[:8].tolist()};"
            " allowed are 1 (pet), 2 (background) and 3 (border)"
        )
    return RawExample(image, trimap, *stored[2:])


def _decoded(encoded: bytes, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except Exception as error:  # broken files make Pillow's parsers raise anything
        raise StageError(f"{what} cannot be decoded: {_first_line(error)}") from error
    return image


def count(builder: tfds.core.DatasetBuilder, split: str, key: str) -> int:
    """Number of examples in a split.

    Raises:
        StageError: There is no such split, or it is empty; names `key` of params.yaml.
    """
    try:
        examples = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise StageError(
            f"params.yaml: {key}: {builder.info.full_name} has no split {split!r}; it has"
            f" {', '.join(builder.info.splits)}, and slices such as train[:100]"
        ) from error
    if not examples:
        raise StageError(f"params.yaml: {key}: the split {split!r} has no examples")
    return examples


def class_names(builder: tfds.core.DatasetBuilder, feature: str) -> list[str]:
    """Names of a ClassLabel feature; none where the dataset does not have it."""
    features = builder.info.features
    return list(getattr(features[feature], "names", None) or ()) if feature in features else []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
