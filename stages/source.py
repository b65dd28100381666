"""The TFDS dataset that the pipeline starts from: found, made or downloaded, and checked."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from stages.errors import StageError
from stages.synthetic_pets.builder import SyntheticPets

OFFLINE = "to work without a network, use `-S dataset=synthetic_pets`"


class RawExample(NamedTuple):
    """One picture as the dataset has it."""

    image: npt.NDArray[np.uint8]  # [height, width, 3], 0 to 255
    trimap: npt.NDArray[np.uint8]  # [height, width], 1 pet, 2 background, 3 border
    file_name: str  # or the example's TFDS id where the dataset has no file names
    label: int  # -1 where the dataset has none
    species: int  # -1 where the dataset has none


def open_dataset(name: str, scratch: Path) -> tfds.core.DatasetBuilder:
    """Finds a dataset, and draws or downloads it if need be.

    Args:
        name: `synthetic_pets`, or a TFDS name such as `oxford_iiit_pet` or `oxford_iiit_pet:4.0.0`,
            looked up in TFDS_DATA_DIR or in TFDS' default folder.
        scratch: A folder for synthetic pictures, which are drawn anew each time so that they are
            always those of the present code.

    Returns:
        A prepared builder whose features include `image` and `segmentation_mask`.

    Raises:
        StageError: The name is unknown, the download failed, or the features are not these.
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


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[RawExample]:
    """Reads the examples of a split in their stored order, one at a time.

    Args:
        builder: A prepared builder with `image` and `segmentation_mask`.
        split: A TFDS split, slices included.

    Yields:
        The examples, decoded.

    Raises:
        StageError: An example cannot be decoded, or its image and trimap do not belong together.
    """
    config = tfds.ReadConfig(
        interleave_cycle_length=1,
        try_autocache=False,
        add_tfds_id="file_name" not in builder.info.features,
    )
    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    dataset = dataset.prefetch(16)
    where = f"the first picture of {builder.info.full_name}, split {split}"
    try:
        for example in tfds.as_numpy(dataset):
            raw = _raw_example(example)
            where = f"the picture after {raw.file_name} of {builder.info.full_name}, split {split}"
            yield raw
    except tf.errors.OpError as error:
        raise StageError(f"{where} cannot be read: {_first_line(error)}") from error


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


def _raw_example(example: dict) -> RawExample:
    name = (example.get("file_name") or example["tfds_id"]).decode("utf-8", "replace")
    image, trimap = example["image"], example["segmentation_mask"]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise StageError(
            f"the image of {name} is {image.dtype} {list(image.shape)};"
            " uint8 [height, width, 3] is needed"
        )
    if trimap.shape != (*image.shape[:2], 1):
        raise StageError(
            f"the segmentation_mask of {name} has shape {list(trimap.shape)}, but its image has"
            f" {list(image.shape)}: they must agree in height and width"
        )
    if trimap.min() < 1 or trimap.max() > 3:
        raise StageError(
            f"the segmentation_mask of {name} holds the values {np.unique(trimap)[:8].tolist()};"
            " allowed are 1 (pet), 2 (background) and 3 (border)"
        )
    return RawExample(
        image,
        trimap[:, :, 0],
        name,
        int(example.get("label", -1)),
        int(example.get("species", -1)),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
