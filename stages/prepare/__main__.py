"""Stage `prepare`: from a TFDS dataset to TFRecords of images and masks, and their manifest."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from stages.params import Params, load_params
from stages.prepare.scaling import scaled
from stages.prepare.source import class_names, count, open_dataset, read_split
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    RECORDS_FOLDER,
    Manifest,
    file_sha256,
    write_arrays,
    write_manifest,
)
from stages.records.tfrecords import ShardWriter
from stages.stage import progress_bar, run_stage

SCRATCH_PREFIX = ".prepare-"
IN_MEMORY = 8 * joblib.cpu_count()  # examples


def main() -> None:
    """Write data/records: nothing appears there before all of it is done."""
    params, parent = load_params(), RECORDS_FOLDER.parent
    parent.mkdir(exist_ok=True)
    for left in parent.glob(f"{SCRATCH_PREFIX}*"):  # by a killed one; DVC runs one at a time
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=parent, prefix=SCRATCH_PREFIX) as name:
        scratch = Path(name)
        records = scratch / "records"
        records.mkdir()
        manifest = write_records(params, records, scratch)
        if RECORDS_FOLDER.exists():
            shutil.move(RECORDS_FOLDER, scratch / "previous")
        records.rename(RECORDS_FOLDER)
    counts = ", ".join(f"{split.examples} {name}" for name, split in manifest.splits.items())
    print(f"{manifest.dataset} {manifest.version}: {counts} examples in {RECORDS_FOLDER}")


def write_records(params: Params, folder: Path, scratch: Path) -> Manifest:
    """Write the records of all splits, the examples for the report, and the manifest.

    `folder` is empty; `scratch` takes temporary files. Raises StageError where the dataset is
    unavailable or damaged, or a split would be empty.
    """
    builder = open_dataset(params.dataset, scratch, params.own)
    splits = "train", "validation", "test"
    writers = {split: ShardWriter(folder, split, params.shard_size) for split in splits}
    train_size = round(params.image_size * params.train_image_scale)
    shown: dict[str, npt.NDArray] = {}
    classes = np.arange(len(CLASS_NAMES))[:, None, None]
    class_counts = np.zeros((len(CLASS_NAMES), params.image_size, params.image_size), np.int64)
    read = {"train": params.train_split, "test": params.test_split}
    totals = {name: count(builder, split, f"{name}_split") for name, split in read.items()}
    with progress_bar("prepare", sum(totals.values())) as progress:
        for name, split in read.items():
            places = np.linspace(0, totals[name] - 1, min(params.examples, totals[name]))
            chosen = set(places.astype(int).tolist())
            kept = []
            items = in_parallel(scaled, read_split(builder, split), name, params, train_size)
            for index, (example, stored, target) in enumerate(items):
                writers[target].write(stored)
                if target == "train":
                    class_counts += example.mask == classes
                if index in chosen:
                    kept.append(example[:3])
                progress.update()
            parts = zip(("images", "masks", "names"), zip(*kept, strict=True), strict=True)
            shown |= {f"{name}_{part}": np.stack(values) for part, values in parts}
    write_arrays(folder / EXAMPLES_FILE, shown)
    # The baseline that needs no learning: the most frequent class at each position.
    np.save(folder / BASELINE_FILE, class_counts.argmax(axis=0).astype(np.uint8))
    manifest = Manifest(
        dataset=builder.info.name,
        version=str(builder.info.version),
        image_size=params.image_size,
        train_image_size=train_size,
        class_names=list(CLASS_NAMES),
        label_names=class_names(builder, "label"),
        species_names=class_names(builder, "species"),
        splits={name: writer.close() for name, writer in writers.items()},
        other_files={name: file_sha256(folder / name) for name in (BASELINE_FILE, EXAMPLES_FILE)},
    )
    write_manifest(manifest, folder)
    return manifest


def in_parallel(function: Callable[..., Any], items: Iterator, *arguments: object) -> Iterator:
    """Apply a function on all cores; results in the items' order, IN_MEMORY at a time."""
    with joblib.Parallel(n_jobs=-1, prefer="threads") as parallel:
        while group := list(itertools.islice(items, IN_MEMORY)):
            yield from parallel(joblib.delayed(function)(item, *arguments) for item in group)


if __name__ == "__main__":
    run_stage("prepare", main)
