"""The TFDS dataset that the pipeline starts from: found, drawn or downloaded, and checked."""

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
from stages.params import Own
from stages.prepare.own import OwnPets
from stages.stage import StageError

_IMAGES = ("image", "segmentation_mask")
logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS warns of its own use of an old name


class RawExample(NamedTuple):
    """One example of the dataset as its files have it."""

    image: bytes  # JPEG, PNG or BMP
    trimap: bytes  # likewise
    file_name: str  # or the example's TFDS id where the dataset has no file names
    label: int  # -1 where the dataset has none
    species: int  # -1 where the dataset has none


def open_dataset(name: str, scratch: Path, own: Own | None = None) -> tfds.core.DatasetBuilder:
    """Find a dataset in TFDS_DATA_DIR or TFDS' default folder, or download it.

    `synthetic_pets` is drawn in `scratch`, and `own` gathered there. Raises StageError where the
    name is unknown, the download fails, or the features do not fit.
    """
    kind, _, config = name.partition("/")
    builder: tfds.core.DatasetBuilder
    if kind == "synthetic_pets" and config in ("", *SyntheticPets.builder_configs):
        builder = SyntheticPets(data_dir=scratch, config=config or None)
    elif name == "own" and own:
        builder = OwnPets(own, data_dir=scratch)
    else:
        try:
            builder = tfds.builder(name)
        # An unknown version is an AssertionError, an unparsable name a ValueError.
        except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
            raise StageError(
                f"params.yaml: dataset: {name!r} is not available ({_first_line(error)}); use"
                " synthetic_pets, oxford_iiit_pet, or a TFDS dataset with image and"
                " segmentation_mask"
            ) from error
        if not builder.is_prepared():
            _download(builder)
    tfds.disable_progress_bar()  # after a download, whose bars are welcome
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


def read_split(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[RawExample]:
    """Read the examples of a TFDS split, slices included, in their stored order.

    Raises StageError where a file is damaged or an example lacks a feature.
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
    where = "the first example"
    try:
        for example in dataset.as_numpy_iterator():
            name = example.get("file_name", example.get("tfds_id")).decode(errors="replace")
            where = f"the example after {name}"
            yield RawExample(
                example["image"],
                example["segmentation_mask"],
                name,
                int(example.get("label", -1)),
                int(example.get("species", -1)),
            )
    except tf.errors.OpError as error:
        raise StageError(
            f"{where} of {builder.info.full_name}, {split} cannot be read: {_first_line(error)}"
        ) from error


def decode(raw: RawExample) -> tuple[Image.Image, Image.Image]:
    """Decode an example to an RGB image and a trimap of 1 (pet), 2 (background) and 3 (border).

    Raises StageError where that fails, their sizes differ, or the trimap has other values.
    """
    decoded = []
    for feature, content in zip(_IMAGES, raw[:2], strict=True):
        try:
            decoded.append(Image.open(io.BytesIO(content)))
            decoded[-1].load()
        except Exception as error:  # broken files make Pillow's parsers raise anything
            raise StageError(
                f"the {feature} of {raw.file_name} cannot be decoded: {_first_line(error)}"
            ) from error
    image, trimap = decoded
    mask = f"the segmentation_mask of {raw.file_name}"
    if trimap.mode not in ("L", "P") or trimap.size != image.size:
        raise StageError(
            f"{mask} has the mode {trimap.mode} and the size {trimap.size}; needed are one channel"
            f" of 8 bits (L or P) and the size of the image, {image.size}"
        )
    values = np.asarray(trimap)
    if values.min() < 1 or values.max() > 3:
        raise StageError(
            f"{mask} holds the values {np.unique(values)[:8].tolist()};"
            " allowed are 1 (pet), 2 (background) and 3 (border)"
        )
    return image.convert("RGB"), trimap


def count(builder: tfds.core.DatasetBuilder, split: str, key: str) -> int:
    """Number of examples in a split; StageError names `key` of params.yaml if there are none."""
    examples = 0
    with contextlib.suppress(KeyError, ValueError, AssertionError):
        examples = builder.info.splits[split].num_examples
    if not examples:
        raise StageError(
            f"params.yaml: {key}: {builder.info.full_name} has no examples in {split!r}; it has the"
            f" splits {', '.join(builder.info.splits)}, and slices such as train[:100]"
        )
    return examples


def class_names(builder: tfds.core.DatasetBuilder, feature: str) -> list[str]:
    """Names of a ClassLabel feature; none where the dataset does not have it."""
    return getattr(dict(builder.info.features).get(feature), "names", None) or []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
