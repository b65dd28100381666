"""The manifest of the records, and the arrays beside them: written by `prepare`, checked on use."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from stages.stage import StageError

RECORDS_FOLDER = Path("data/records")
# The most frequent class of the training masks at each position: uint8 [height, width].
BASELINE_FILE = "baseline.npy"
# Images, masks and file names of the training and of the test split, for the report.
EXAMPLES_FILE = "examples.npz"
ADVICE = "`dvc repro -f prepare` makes the records again"
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
    """One split."""

    examples: int
    class_shares: dict[str, float]  # of its pixels
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
    other_files: dict[FileName, str]  # SHA-256 of BASELINE_FILE and EXAMPLES_FILE

    def split_image_size(self, split: str) -> int:
        """Height and width in pixels of the images of a split."""
        return self.train_image_size if split == "train" else self.image_size


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `folder`/manifest.json: the same manifest gives the same bytes."""
    text = json.dumps(manifest.model_dump(), indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def read_manifest(folder: Path = RECORDS_FOLDER) -> Manifest:
    """Read the manifest of a folder of records; StageError if it is missing or not a manifest."""
    path = folder / "manifest.json"
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StageError(f"{path} is missing or not a manifest; {ADVICE}") from error


def checked_file(folder: Path, file: str, sha256: str) -> Path:
    """Path of a file of the records; StageError if its checksum is not that of the manifest."""
    path = folder / file
    if not path.is_file() or file_sha256(path) != sha256:
        raise StageError(f"{path} is missing or not what prepare wrote (its checksum); {ADVICE}")
    return path


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray]) -> None:
    """Write arrays like `np.savez`, whose bytes differ between releases of Python."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def read_arrays(folder: Path, manifest: Manifest, file: str) -> Any:
    """Read BASELINE_FILE, an array, or EXAMPLES_FILE, arrays by name; StageError as above."""
    path = checked_file(folder, file, manifest.other_files.get(file, ""))
    return np.load(path, allow_pickle=False)


def file_sha256(path: Path) -> str:
    """SHA-256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
