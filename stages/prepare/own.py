"""A folder of images and masks as a TFDS dataset: `dataset: own`."""

import csv
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data.synthetic_pets.picture import trimap
from stages.params import Own
from stages.records.photograph import SUFFIX, PhotographError, read_photograph
from stages.stage import StageError

SPLITS = ("train", "test")


class OwnPets(tfds.core.GeneratorBasedBuilder):
    """Reads what data/own/README.md describes."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, own: Own, **options: Any) -> None:
        """Finds the images and masks.

        Raises:
            StageError: There are none, one lacks the other, or split.csv does not fit them.
        """
        self._own, self._splits = own, find(Path(own.folder), own.test_share)
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        image, mask = {"shape": (None, None, 3)}, {"shape": (None, None, 1)}
        features = {
            "image": tfds.features.Image(**image, dtype=np.uint8, encoding_format="png"),
            "segmentation_mask": tfds.features.Image(**mask, dtype=np.uint8),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {name: self._generate_examples(pairs) for name, pairs in self._splits.items()}

    def _generate_examples(
        self, pairs: list[tuple[Path, Path]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for image, mask in pairs:
            try:
                photograph = read_photograph(image)
            except PhotographError as error:
                raise StageError(f"{image} {error}") from error
            classes = read_mask(mask, photograph.size, self._own.border_width)
            yield (
                image.name,
                {
                    "image": _png(photograph),
                    "segmentation_mask": _png(Image.fromarray(classes)),
                    "file_name": image.name,
                },
            )


def find(folder: Path, test_share: float) -> dict[str, list[tuple[Path, Path]]]:
    """The images and masks of each split, from test/, split.csv, or by a hash of the name."""
    pairs = _pairs(folder)
    table = folder / "split.csv"
    if (folder / "test").is_dir():
        return {"train": pairs, "test": _pairs(folder / "test")}
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            chosen = {row.get("file"): row.get("split") for row in csv.DictReader(file)}
        for image, _ in pairs:
            if chosen.get(image.name) not in SPLITS:
                raise StageError(f"{table}: {image.name} has no row `file,split` of train or test")
    else:
        chosen = {}
        for image, _ in pairs:
            digest = hashlib.sha256(f"test {image.name}".encode()).digest()
            share = int.from_bytes(digest[:8], "big") / 2**64
            chosen[image.name] = SPLITS[share < test_share]
    splits = {name: [pair for pair in pairs if chosen[pair[0].name] == name] for name in SPLITS}
    for name, found in splits.items():
        if not found:
            raise StageError(f"{folder} gives no {name} images; add some, or name them in {table}")
    return splits


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images, masks = _files(folder / "images"), _files(folder / "masks")
    if not images:
        raise StageError(
            f"{folder}/images has no images: put photographs there and masks of the same names as"
            f" PNG into {folder}/masks (data/own/README.md)"
        )
    for one, other, kind in ((images, masks, "masks"), (masks, images, "images")):
        if missing := sorted(set(one) - set(other)):
            more = f" and {len(missing) - 1} more have" if len(missing) > 1 else " has"
            raise StageError(f"{one[missing[0]]}{more} no file of the same name in {folder}/{kind}")
    return [(image, masks[stem]) for stem, image in images.items()]


def _files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*")):
        if SUFFIX.fullmatch(path.suffix) and files.setdefault(path.stem, path) != path:
            raise StageError(f"{files[path.stem]} and {path} share a name; rename one")
    return files


def read_mask(path: Path, size: tuple[int, int], border_width: float) -> np.ndarray:
    """Reads a mask as a trimap, uint8 [height, width]: 1 pet, 2 background, 3 border.

    Args:
        path: A trimap, or a binary mask with 1 or 255 on the pet.
        size: Width and height of its image.
        border_width: Of a binary mask's border, as a share of the width.

    Raises:
        StageError: It cannot be read, or has another size, more channels or other values.
    """
    try:
        with Image.open(path) as mask:
            values = np.asarray(mask)
    except Exception as error:  # broken files make Pillow's readers raise all kinds of errors
        raise StageError(f"{path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if values.shape != size[::-1]:
        found = " x ".join(map(str, values.shape))
        raise StageError(
            f"{path} has {found} values, and its image, turned as EXIF says,"
            f" {size[1]} x {size[0]} pixels with one value each"
        )
    present = set(np.unique(values).tolist())
    if present <= {1, 2, 3}:
        return values.astype(np.uint8)
    if present <= {0, 1} or present <= {0, 255}:
        return trimap(values > 0, border_width)
    raise StageError(
        f"{path} holds the values {sorted(present)[:8]}; allowed are 1 (pet), 2 (background) and"
        " 3 (border), or a pet of 1 or 255 on 0; other classes are out of scope"
    )


def _png(image: Image.Image) -> io.BytesIO:
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=1)
    content.seek(0)
    return content
