"""Stages that take no time: what they write has the form of the real stages' outputs.

`python -m tests.stub_stages STAGE [NETWORK]` in a folder with params.yaml and network.keras, a
network of 8 x 8 pictures. How good a network is grows with its learning rate.
"""

import csv
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from stages.metrics import confusion
from stages.metrics.bootstrap import confidence_interval
from stages.records.manifest import Manifest, Shard, Split, write_manifest
from stages.runs.headlines import HEADLINES

NAMES = ["pet", "background", "border"]
PICTURES = 40
METRICS = Path("metrics")


def manifest(dataset: str = "synthetic_pets", test: str = "a") -> Manifest:
    """A manifest whose test split has the checksum `test`."""
    shards = [Shard(file="test-0.tfrecord", examples=PICTURES, sha256=test)]
    counts = {"train": 9, "validation": 3, "test": PICTURES}
    return Manifest(
        dataset=dataset,
        version="1.2.3",
        image_size=8,
        train_image_size=8,
        class_names=NAMES,
        label_names=[],
        species_names=[],
        other_files={},
        splits={
            name: Split(examples=count, class_shares={}, shards=shards if name == "test" else [])
            for name, count in counts.items()
        },
    )


def write_history(network: str, epochs: int) -> Path:
    """Writes a history in which the last but one epoch is the best."""
    path = METRICS / f"{network}.history.csv"
    rows = ["epoch,loss,accuracy,mean_iou,val_loss,val_accuracy,val_mean_iou"]
    for epoch in range(1, epochs + 1):
        validation = 0.5 + 0.1 * abs(epochs - 1 - epoch)
        rows.append(f"{epoch},{1 / epoch},0.6,0.4,{validation},0.7,0.5")
    path.write_text("\n".join(rows) + "\n")
    return path


def matrices(right: float) -> npt.NDArray[np.int64]:
    """Confusion matrices [picture, class, class] with this share of right pixels, in the mean."""
    generator = np.random.default_rng(0)
    shares = np.clip(right + generator.normal(0, 0.05, PICTURES), 0.1, 1)
    counts = np.round(1000 * (shares[:, None, None] * np.eye(3)))
    counts += np.round(500 * ((1 - shares)[:, None, None] * (1 - np.eye(3))))
    return counts.astype(np.int64)


def write_evaluation(network: str, right: float) -> None:
    """Writes what `evaluate` writes of a network with this share of right pixels."""
    counts = matrices(right)
    total = counts.sum(axis=0)
    value = float(confusion.mean_iou(total))
    low, high = confidence_interval(counts, confusion.mean_iou, seed=0)
    ends = [float(low), float(high)]
    nested = ("pet_iou", "boundary_f")
    figures = {name: value for name in HEADLINES if name not in nested}
    figures["accuracy"] = right
    groups = {"pet_iou": {"border_as_pet": value}, "boundary_f": {"2px": None}}
    intervals = dict.fromkeys(figures, ends)
    of_groups = {"pet_iou": {"border_as_pet": ends}, "boundary_f": {"2px": [None, None]}}
    report = {**figures, **groups, "intervals": {**intervals, **of_groups}}
    (METRICS / f"{network}.json").write_text(json.dumps(report))
    pairs = [f"{true}_as_{found}" for true in NAMES for found in NAMES]
    with (METRICS / f"{network}.images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "species", "breed", "loss", *pairs])
        for number, matrix in enumerate(counts):
            writer.writerow([f"cat_{number}.jpg", "Cat", "tabby", 0.5, *matrix.flatten()])
    for kind in ("worst", "best"):
        Image.new("RGB", (24, 8), (200, 120, 60)).save(METRICS / f"{network}.{kind}.png")


def main() -> None:
    stage, *rest = sys.argv[1:]
    params = yaml.safe_load(Path("params.yaml").read_text())
    METRICS.mkdir(exist_ok=True)
    if stage == "prepare":
        records = Path("data/records")
        records.mkdir(parents=True)
        write_manifest(manifest(params["dataset"], str(params["test_split"])), records)
        np.savez(records / "examples.npz", test_images=np.full((1, 8, 8, 3), 100, np.uint8))
        return
    network = rest[0]
    if stage == "train":
        path = Path("models") / f"{network}.keras"
        path.parent.mkdir(exist_ok=True)
        shutil.copy("network.keras", path)
        with zipfile.ZipFile(path, "a") as archive:  # other parameters, other bytes
            archive.comment = json.dumps([network, params[network], params["epochs"]]).encode()
        write_history(network, params["epochs"])
    else:
        write_evaluation(network, 0.5 + 10 * params[network]["learning_rate"])


if __name__ == "__main__":
    main()
