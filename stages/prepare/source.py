"""The TFDS dataset that the pipeline starts from: found, made or downloaded, and checked."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from data.synthetic_pets.builder import SyntheticPets
from stages.stage import StageError

OFFLINE = "to work without a network, use `-S dataset=synthetic_pets`"


# Read together, because TensorFlow takes longer to hand over a picture than to read it.
READ_TOGETHER = 16


class StoredExample(NamedTuple):
    """One picture as the dataset's files have it."""

    image: bytes  # JPEG, PNG or BMP
    trimap: bytes
    file_name: str  # or the example's TFDS id where the dataset has no file names
    label: int  # -1 where the dataset has none
    species: int  # -1 where the dataset has none


class RawExample(NamedTuple):
    """One picture, decoded."""

    image: Image.Image  # RGB
    trimap: Image.Image  # of the image's size, one channel: 1 pet, 2 background, 3 border
    file_name: str
    label: int
    species: int


def open_dataset(name: str, scratch: Path) -> tfds.core.DatasetBuilder:
    """Finds a dataset, and draws or downloads it if need be.

    Args:
        name: `synthetic_pets`, or a TFDS name such as `oxford_iiit_pet` or `oxford_iiit_pet:4.0.0`,
            looked up in TFDS_DATA_DIR or in TFDS' default folder.
        scratch: A folder for synthetic pictures, which are drawn anew each time so that they are
            always those of the present code.

    Returns:
        A prepared builder whose features include the images `image` and `segmentation_mask`.

    Raises:
        StageError: The name is unknown, the download failed, or the features are not these or no
            images of uint8.
    """
    drawn = (f"synthetic_pets/{config}" for config in SyntheticPets.builder_configs)
    if name in ("synthetic_pets", *drawn):
        config = name.partition("/")[2] or None
        builder: tfds.core.DatasetBuilder = SyntheticPets(data_dir=scratch, config=config)
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS would speak of a download
            builder.download_and_prepare()
    else:
        builder = _named_builder(name)
        if not builder.is_prepared():
            _download(builder)
    missing = {"image", "segmentation_mask"} - set(builder.info.features or ())
    if missing:
        raise StageError(
            f"params.yaml: dataset: {name} has no {' and no '.join(sorted(missing))};"
            " a TFDS dataset with the features image and segmentation_mask is needed"
        )
    for key in ("image", "segmentation_mask"):
        feature = builder.info.features[key]
        if not isinstance(feature, tfds.features.Image) or feature.np_dtype != np.uint8:
            raise StageError(
                f"params.yaml: dataset: {key} of {builder.info.full_name} is {feature};"
                " a TFDS Image of dtype uint8 is needed"
            )
    return builder


def _named_builder(name: str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name)
    # An unknown version is an AssertionError, an unparsable name a ValueError.
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
        if isinstance(error, AssertionError):
            reason = str(error).splitlines()[0].rsplit("builder_kwargs", 1)[-1].split(": ", 2)[-1]
        else:
            reason = "TFDS has no dataset of this name"
        raise StageError(
            f"params.yaml: dataset: {name!r} is not available: {reason}. Use synthetic_pets,"
            " oxford_iiit_pet, or the name of a TFDS dataset with image and segmentation_mask"
        ) from error


def _download(builder: tfds.core.DatasetBuilder) -> None:
    name = builder.info.full_name
    urls = builder.url_infos
    size = sum(info.size for info in urls.values()) / 1e6
    try:
        # TFDS itself would retry for minutes before it gives up.
        for url in urls:
            requests.head(url, timeout=20, allow_redirects=True).raise_for_status()
        builder.download_and_prepare()
    except (requests.RequestException, OSError, tfds.core.download.DownloadError) as error:
        # Its own text is a chain of exceptions.
        offline = isinstance(error, requests.ConnectionError)
        reason = "no connection" if offline else _first_line(error)
        raise StageError(
            f"{name} is not in {Path(builder.data_path).parent.parent} and could not be downloaded"
            f" ({size:,.0f} MB from {', '.join(urls) or builder.info.homepage}): {reason}."
            f" Set TFDS_DATA_DIR to a folder that holds {name}, or try again with a network;"
            f" {OFFLINE}"
        ) from error


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[StoredExample]:
    """Reads the examples of a split in their stored order, a few at a time.

    Args:
        builder: A builder from `open_dataset`.
        split: A TFDS split, slices included.

    Yields:
        The examples as they are stored; `decode` decodes one.

    Raises:
        StageError: A file of the dataset is damaged, or an example lacks a feature.
    """
    dataset = _stored_examples(builder, split)
    try:
        for batch in dataset.batch(READ_TOGETHER).prefetch(1).as_numpy_iterator():
            for index in range(len(batch["image"])):
                yield _stored_example({name: values[index] for name, values in batch.items()})
    except tf.errors.OpError as error:
        raise StageError(
            f"{_broken_one(dataset)} of {builder.info.full_name}, split {split} cannot be read:"
            f" {_first_line(error)}"
        ) from error


def _stored_examples(builder: tfds.core.DatasetBuilder, split: str) -> tf.data.Dataset:
    config = tfds.ReadConfig(
        interleave_cycle_length=1,
        try_autocache=False,
        add_tfds_id="file_name" not in builder.info.features,
    )
    wanted = {"image", "segmentation_mask", "file_name", "label", "species"}
    # Pillow decodes what is learned from as it decodes what is predicted, and on all cores.
    decoders = tfds.decode.PartialDecoding(
        dict.fromkeys(wanted & set(builder.info.features), True),
        decoders=dict.fromkeys(("image", "segmentation_mask"), tfds.decode.SkipDecoding()),
    )
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # TFDS warns of its own use of an old name
    try:
        return builder.as_dataset(
            split=split, shuffle_files=False, read_config=config, decoders=decoders
        )
    finally:
        logger.setLevel(level)


def _broken_one(dataset: tf.data.Dataset) -> str:
    """Which picture stopped the reading: batches do not tell."""
    where = "the first picture"
    with contextlib.suppress(tf.errors.OpError):
        for example in dataset.as_numpy_iterator():
            where = f"the picture after {_stored_example(example).file_name}"
    return where


def _stored_example(example: dict) -> StoredExample:
    return StoredExample(
        example["image"],
        example["segmentation_mask"],
        (example["file_name"] if "file_name" in example else example["tfds_id"]).decode(
            "utf-8", "replace"
        ),
        int(example.get("label", -1)),
        int(example.get("species", -1)),
    )


def decode(stored: StoredExample) -> RawExample:
    """Decodes an example, and checks that its image and trimap belong together.

    Raises:
        StageError: One of them cannot be decoded, their sizes differ, the trimap has more than one
            channel, or values other than 1, 2 and 3.
    """
    image = _decoded(stored.image, f"the image of {stored.file_name}")
    if image.mode != "RGB":  # `convert` copies even where there is nothing to convert
        image = image.convert("RGB")
    mask = f"the segmentation_mask of {stored.file_name}"
    trimap = _decoded(stored.trimap, mask)
    if trimap.mode not in ("L", "P"):
        raise StageError(
            f"{mask} is a picture of Pillow's mode {trimap.mode}; one channel of 8 bits is needed"
        )
    if trimap.size != image.size:
        raise StageError(
            f"{mask} has {trimap.height} x {trimap.width} pixels, but its image has"
            f" {image.height} x {image.width}: they must agree in height and width"
        )
    values = np.asarray(trimap)
    if values.min() < 1 or values.max() > 3:
        raise StageError(
            f"{mask} holds the values {np.unique(values)[:8].tolist()};"
            " allowed are 1 (pet), 2 (background) and 3 (border)"
        )
    return RawExample(image, trimap, stored.file_name, stored.label, stored.species)


def _decoded(encoded: bytes, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    # Broken files make Pillow's readers raise whatever their parsers stumble over.
    except Exception as error:
        raise StageError(f"{what} cannot be decoded: {_first_line(error)}") from error
    return image


def count(builder: tfds.core.DatasetBuilder, split: str, key: str) -> int:
    """The number of examples in a split.

    Raises:
        StageError: There is no such split, or it is empty; names `key` of params.yaml.
    """
    available = ", ".join(builder.info.splits)
    try:
        examples = builder.info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise StageError(
            f"params.yaml: {key}: {builder.info.full_name} has no split {split!r};"
            f" it has {available}, and slices such as train[:100]"
        ) from error
    if not examples:
        raise StageError(f"params.yaml: {key}: the split {split!r} has no examples")
    return examples


def class_names(builder: tfds.core.DatasetBuilder, feature: str) -> list[str]:
    """The names of a ClassLabel feature; none where the dataset does not have it."""
    features = builder.info.features
    return list(getattr(features[feature], "names", None) or ()) if feature in features else []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
