"""What `prepare` made: the counts, the class shares and the checksums of the records."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from stages.stage import StageError

RECORDS_FOLDER = Path("data/records")
# The most frequent class of the training masks at each position: uint8 [height, width].
BASELINE_FILE = "baseline.npy"
# Pictures, masks and file names for the report, of the training and of the test split.
EXAMPLES_FILE = "examples.npz"
# A name that cannot lead out of the folder.
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One TFRecord file."""

    file: FileName
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
    other_files: dict[FileName, str]  # SHA-256 of what is no shard

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


def checked_file(folder: Path, file: str, sha256: str) -> Path:
    """The path of a file of the records, once it is known to be the one that `prepare` wrote.

    Args:
        folder: Of the records.
        file: Its name.
        sha256: Its checksum in the manifest.

    Raises:
        StageError: It is missing, cut off, changed, or another one.
    """
    path = folder / file
    if not path.is_file():
        problem = "is missing"
    elif file_sha256(path) != sha256:
        problem = "is not the file that prepare wrote (its checksum differs)"
    else:
        return path
    raise StageError(f"{path} {problem}; `dvc repro -f prepare` makes the records anew")


def read_arrays(folder: Path, manifest: Manifest, file: str) -> Any:
    """Reads BASELINE_FILE, an array, or EXAMPLES_FILE, arrays by name.

    Raises:
        StageError: As `checked_file`.
    """
    path = checked_file(folder, file, manifest.other_files.get(file, ""))
    return np.load(path, allow_pickle=False)


def file_sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
