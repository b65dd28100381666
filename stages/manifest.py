"""What `prepare` made: the counts, the class shares and the checksums of the records."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.errors import StageError

RECORDS_FOLDER = Path("data/records")
# Trimap value minus 1, in Oxford-IIIT Pet's order: 1 pet, 2 background, 3 border.
CLASS_NAMES = ("pet", "background", "border")
# The most frequent class of the training masks at each position: uint8 [height, width].
BASELINE_FILE = "baseline.npy"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One TFRecord file."""

    file: str
    examples: int
    sha256: str


class Split(_Record):
    """One split: its size, the share of its pixels that each class has, and its files."""

    examples: int
    class_shares: dict[str, float]
    shards: list[Shard]


class Manifest(_Record):
    """The contents of data/records/manifest.json."""

    dataset: str
    version: str
    image_size: int
    train_image_size: int
    class_names: list[str]
    label_names: list[str]
    species_names: list[str]
    splits: dict[str, Split]

    def split_image_size(self, split: str) -> int:
        """Height and width of the pictures of a split in pixels."""
        return self.train_image_size if split == "train" else self.image_size


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes `folder`/manifest.json: the same manifest gives the same bytes."""
    text = json.dumps(manifest.model_dump(), indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def read_manifest(folder: Path = RECORDS_FOLDER) -> Manifest:
    """Reads the manifest of a folder of records.

    Raises:
        StageError: There is none, or it is not one that `prepare` wrote.
    """
    path = folder / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StageError(
            f"{path} is missing or not a manifest; `dvc repro -f prepare` makes the records anew"
        ) from error


def file_sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
