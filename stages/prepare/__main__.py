"""Stage `prepare`: from a TFDS dataset to TFRecords of images and masks, and their manifest."""

import contextlib
import functools
import hashlib
import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from PIL import Image

from stages.parallel import in_parallel
from stages.params import Params, load_params
from stages.prepare.source import (
    RawExample,
    StoredExample,
    class_names,
    count,
    decode,
    open_dataset,
    read_split,
)
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    RECORDS_FOLDER,
    Manifest,
    Split,
    file_sha256,
    write_manifest,
)
from stages.records.resizing import network_input
from stages.records.tfrecords import Example, ShardWriter
from stages.run_record import write_run_record
from stages.stage import StageError, progress_bar, run_stage

SCRATCH_PREFIX = ".prepare-"
LOCK_FILE = Path(".dvc/tmp/prepare.lock")


def main() -> None:
    """Writes data/records: nothing appears there before all of it is done."""
    start = time.perf_counter()
    params = load_params()
    RECORDS_FOLDER.parent.mkdir(exist_ok=True)
    with (
        _alone(),
        tempfile.TemporaryDirectory(dir=RECORDS_FOLDER.parent, prefix=SCRATCH_PREFIX) as scratch,
    ):
        records = Path(scratch) / "records"
        records.mkdir()
        manifest = write_records(params, records, Path(scratch))
        if RECORDS_FOLDER.exists():
            shutil.move(RECORDS_FOLDER, Path(scratch) / "previous")
        records.rename(RECORDS_FOLDER)
    write_run_record("prepare", time.perf_counter() - start)
    counts = ", ".join(f"{split.examples} {name}" for name, split in manifest.splits.items())
    print(f"{manifest.dataset} {manifest.version}: {counts} examples in {RECORDS_FOLDER}")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keeps a second `prepare` out, and clears what a killed one has left."""
    LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(LOCK_FILE, timeout=0):
            for left in RECORDS_FOLDER.parent.glob(f"{SCRATCH_PREFIX}*"):
                shutil.rmtree(left)
            yield
    except Timeout as error:
        raise StageError("another prepare is under way here; wait for its end") from error


def write_records(params: Params, folder: Path, scratch: Path) -> Manifest:
    """Writes the records of all splits, the examples for the report, and the manifest.

    A handful of pictures is held in memory at a time, however large the dataset is: they are
    scaled on all cores, and written in the dataset's order.

    Args:
        params: The dataset, its splits and the size of the images.
        folder: An empty folder for the records.
        scratch: A folder for what is not kept.

    Returns:
        The manifest.

    Raises:
        StageError: The dataset cannot be had or read, or a split would be empty.
    """
    builder = open_dataset(params.dataset, scratch)
    writers = {
        name: ShardWriter(folder, name, params.shard_size)
        for name in ("train", "validation", "test")
    }
    shown: dict[str, npt.NDArray] = {}
    class_counts = np.zeros((len(CLASS_NAMES), params.image_size, params.image_size), np.int64)
    for key, split in (("train", params.train_split), ("test", params.test_split)):
        total = count(builder, split, f"{key}_split")
        chosen = set(np.linspace(0, total - 1, min(params.examples, total)).astype(int).tolist())
        kept = []
        scaled = in_parallel(
            functools.partial(_scaled, params, key == "train"), read_split(builder, split)
        )
        with progress_bar(f"prepare {key}", total) as progress:
            for index, (example, recorded, held_out) in enumerate(scaled):
                writers["validation" if held_out else key].write(recorded)
                if key == "train" and not held_out:
                    for number in range(len(CLASS_NAMES)):
                        class_counts[number] += example.mask == number
                if index in chosen:
                    kept.append(example)
                progress.update()
        shown[f"{key}_images"] = np.stack([example.image for example in kept])
        shown[f"{key}_masks"] = np.stack([example.mask for example in kept])
        shown[f"{key}_names"] = np.array([example.file_name for example in kept])
    _write_arrays(folder / EXAMPLES_FILE, shown)
    # The baseline that needs no learning: the most frequent class at each position.
    np.save(folder / BASELINE_FILE, class_counts.argmax(axis=0).astype(np.uint8))
    manifest = Manifest(
        dataset=builder.info.name,
        version=str(builder.info.version),
        image_size=params.image_size,
        train_image_size=train_image_size(params),
        class_names=list(CLASS_NAMES),
        label_names=class_names(builder, "label"),
        species_names=class_names(builder, "species"),
        splits={name: _closed(writer, name, params) for name, writer in writers.items()},
        other_files={name: file_sha256(folder / name) for name in (BASELINE_FILE, EXAMPLES_FILE)},
    )
    write_manifest(manifest, folder)
    return manifest


def _write_arrays(path: Path, arrays: Mapping[str, npt.NDArray]) -> None:
    """As `np.savez`, whose bytes differ from one release of Python to the next."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def train_image_size(params: Params) -> int:
    """Height and width of the stored training pictures in pixels."""
    return round(params.image_size * params.train_image_scale)


def _scaled(params: Params, train: bool, stored: StoredExample) -> tuple[Example, Example, bool]:
    """The picture at the network's size and as it is kept, and whether it is held out."""
    raw = decode(stored)
    example = resized(raw, params.image_size)
    held_out = train and in_validation(raw.file_name, params.validation_share)
    if train and not held_out and train_image_size(params) != params.image_size:
        return example, resized(raw, train_image_size(params)), held_out
    return example, example, held_out


def resized(raw: RawExample, image_size: int) -> Example:
    """Scales a picture to a square and numbers its classes from 0.

    The mask takes the nearest pixel's class: anything else would invent classes (a pixel between
    pet, 1, and border, 3, is not background, 2).

    Args:
        raw: An RGB image of any size, and its trimap of values 1 to 3.
        image_size: Height and width of the result in pixels.

    Returns:
        Image uint8 [image_size, image_size, 3], mask uint8 [image_size, image_size] of values
        0 to 2.
    """
    image = network_input(raw.image, image_size)
    trimap = raw.trimap.resize((image_size, image_size), Image.Resampling.NEAREST)
    return Example(image, np.asarray(trimap) - np.uint8(1), raw.file_name, raw.label, raw.species)


def in_validation(file_name: str, share: float) -> bool:
    """Whether a training picture is held out for validation.

    Decided by a hash of its file name: no seed, no order and no other picture changes it, and a
    larger share holds out the same pictures and more.

    Args:
        file_name: The picture's name.
        share: The share of the pictures to hold out, between 0 and 1.
    """
    digest = hashlib.sha256(file_name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _closed(writer: ShardWriter, name: str, params: Params) -> Split:
    shards = writer.close()
    if not writer.examples:
        raise StageError(
            f"the {name} split would have no examples (validation_share is"
            f" {params.validation_share}, train_split is {params.train_split!r}):"
            " take more of the dataset or change validation_share in params.yaml"
        )
    shares = writer.pixels / writer.pixels.sum()
    return Split(
        examples=writer.examples,
        class_shares=dict(zip(CLASS_NAMES, shares.round(6).tolist(), strict=True)),
        shards=shards,
    )


if __name__ == "__main__":
    run_stage("prepare", main)
