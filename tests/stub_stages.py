"""Stages that take no time, whose outputs have the form of the real stages' outputs.

`python -m tests.stub_stages STAGE [NETWORK]` in a folder with params.yaml and network.keras, a
network of 8 x 8 images. How good a network is grows with its learning rate.
"""

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from stages.metrics import confusion
from stages.metrics.bootstrap import confidence_interval
from stages.metrics.results import COUNT_COLUMNS, Intervals, Metrics, Reliability, Results
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest, Shard, Split, write_manifest

IMAGES = 40
METRICS = Path("metrics")


def manifest(dataset: str = "synthetic_pets", test: str = "a") -> Manifest:
    """A manifest whose test split has the checksum `test`."""
    shards = [Shard(file="test-0.tfrecord", examples=IMAGES, sha256=test)]
    counts = {"train": 9, "validation": 3, "test": IMAGES}
    return Manifest(
        dataset=dataset,
        version="1.2.3",
        image_size=8,
        train_image_size=8,
        class_names=list(CLASS_NAMES),
        label_names=[],
        species_names=[],
        other_files={},
        splits={
            name: Split(examples=count, class_shares={}, shards=shards if name == "test" else [])
            for name, count in counts.items()
        },
    )


def write_history(network: str, epochs: int, folder: Path = METRICS) -> Path:
    """Writes a history in which the last but one epoch is the best."""
    path = folder / f"{network}.history.csv"
    rows = ["epoch,loss,accuracy,mean_iou,val_loss,val_accuracy,val_mean_iou"]
    for epoch in range(1, epochs + 1):
        validation = 0.5 + 0.1 * abs(epochs - 1 - epoch)
        rows.append(f"{epoch},{1 / epoch},0.6,0.4,{validation},0.7,0.5")
    path.write_text("\n".join(rows) + "\n")
    return path


def write_evaluation(network: str, right: float, folder: Path = METRICS) -> Results:
    """Writes what `evaluate` writes of a network with this share of right pixels."""
    generator = np.random.default_rng(0)
    shares = np.clip(right + generator.normal(0, 0.05, IMAGES), 0.1, 1)
    counts = np.round(1000 * (shares[:, None, None] * np.eye(3)))
    counts += np.round(500 * ((1 - shares)[:, None, None] * (1 - np.eye(3))))
    value = float(confusion.mean_iou(counts.sum(axis=0)))
    low, high = confidence_interval(counts, confusion.mean_iou, seed=0)
    ends = (float(low), float(high))
    names = ("accuracy", "mean_iou", "mean_image_iou")
    groups = ("iou", "dice", "precision", "recall")
    values: dict[str, Any] = dict.fromkeys(names, value) | {"accuracy": right}
    values |= {group: {} for group in groups}
    values |= {"pet_iou": {"border_as_pet": value}, "boundary_f": {"2px": None}}
    metrics = Metrics(**values)
    results = Results(
        **metrics.model_dump(),
        images=IMAGES,
        loss=0.5,
        calibration_error=0.1,
        intervals=Intervals(
            **dict.fromkeys((*names, "calibration_error", "loss"), ends),
            iou={},
            pet_iou={"border_as_pet": ends},
            boundary_f={"2px": (None, None)},
        ),
        confusion_matrix=counts.sum(axis=0).astype(int).tolist(),
        reliability=Reliability(confidence=[], accuracy=[], pixels=[]),
        slices={},
        baseline=metrics,
        worst=[],
        best=[],
    )
    results.write(folder / f"{network}.json")
    table = pd.DataFrame(counts.reshape(IMAGES, -1).astype(int), columns=COUNT_COLUMNS)
    table = table.assign(species="Cat", breed="tabby", pet_share=0.3, loss=0.5, accuracy=right)
    table = table.assign(mean_iou=value, boundary_f_1px=0.5, boundary_f_2px=0.5, boundary_f_3px=0.5)
    table["file_name"] = [f"cat_{number}.jpg" for number in range(IMAGES)]
    table.to_csv(folder / f"{network}.images.csv", index=False)
    for kind in ("worst", "best"):
        Image.new("RGB", (24, 8), (200, 120, 60)).save(folder / f"{network}.{kind}.png")
    return results


def run(stage: str, network: str) -> None:
    """Runs a stage in the working folder."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    METRICS.mkdir(exist_ok=True)
    if stage == "prepare":
        records = Path("data/records")
        records.mkdir(parents=True)
        write_manifest(manifest(params["dataset"], str(params["test_split"])), records)
        np.savez(records / "examples.npz", test_images=np.full((1, 8, 8, 3), 100, np.uint8))
    elif stage == "train":
        path = Path("models") / f"{network}.keras"
        path.parent.mkdir(exist_ok=True)
        shutil.copy("network.keras", path)
        with zipfile.ZipFile(path, "a") as archive:  # other parameters, other bytes
            archive.comment = json.dumps([network, params[network], params["epochs"]]).encode()
        write_history(network, params["epochs"])
    else:
        write_evaluation(network, 0.5 + 10 * params[network]["learning_rate"])


if __name__ == "__main__":
    run(sys.argv[1], "".join(sys.argv[2:]))
