"""What the stages up to `evaluate` write, in no time: the same files with made-up contents.

How good a network is grows with its learning rate.
"""

import json
import os
import shutil
import zipfile
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from stages.evaluate.measurement import Measurement
from stages.evaluate.results import results
from stages.metrics.results import BOUNDARY_COLUMNS, COUNT_COLUMNS, Results
from stages.params import Params
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest, Shard, Split, write_manifest
from stages.runs import tracking

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


def write_history(network: str, epochs: int) -> Path:
    """Writes a history in which the last but one epoch is the best."""
    path = METRICS / f"{network}.history.csv"
    history = pd.DataFrame({"epoch": np.arange(1, epochs + 1)})
    history = history.assign(loss=1 / history.epoch, accuracy=0.6, mean_iou=0.4)
    history["val_loss"] = 0.5 + 0.1 * (epochs - 1 - history.epoch).abs()
    history.assign(val_accuracy=0.7, val_mean_iou=0.5).to_csv(path, index=False)
    return path


def write_evaluation(network: str, right: float) -> Results:
    """Writes what `evaluate` writes of a network with about this share of right pixels."""
    spread = np.random.default_rng(0).normal(0, 0.05, IMAGES)
    shares = np.clip(right + spread - spread.mean(), 0.1, 1)[:, None, None]
    counts = np.round(1000 * shares * np.eye(3) + 500 * (1 - shares) * (1 - np.eye(3)))
    table = pd.DataFrame(counts.reshape(IMAGES, -1).astype(int), columns=COUNT_COLUMNS)
    table = table.assign(species="Cat", breed="tabby", pet_share=0.3, loss=0.5, accuracy=right)
    table = table.assign(mean_iou=0.5, **dict.fromkeys(BOUNDARY_COLUMNS, 0.5))
    table = table.assign(boundary_f_2px=np.nan)  # undefined
    table["file_name"] = [f"cat_{number}.jpg" for number in range(IMAGES)]
    measurement = Measurement(table, table.drop(columns="loss"), np.ones((IMAGES, 15, 3)), [], [])
    found = results(measurement, manifest(), seed=0)
    found.write(METRICS / f"{network}.json")
    table.to_csv(METRICS / f"{network}.images.csv", index=False)
    (METRICS / f"{network}.summary.json").write_text("{}")
    for kind in ("worst", "best", "examples"):
        Image.new("RGB", (24, 8), (200, 120, 60)).save(METRICS / f"{network}.{kind}.png")
    return found


def write_outputs() -> None:
    """Writes all outputs by params.yaml in the working folder; networks are its network.keras."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    records = Path("data/records")
    for folder in (records, METRICS, Path("models")):
        folder.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest(params["dataset"], params["test_split"]), records)
    np.savez(records / "examples.npz", test_images=np.full((1, 8, 8, 3), 100, np.uint8))
    for network in params["networks"]:
        write_network(Path("models") / f"{network}.keras", [network, params[network]])
        write_history(network, params["epochs"])
        write_evaluation(network, 0.5 + 10 * params[network]["learning_rate"])


def write_network(path: Path, of: object, network: Path = Path("network.keras")) -> None:
    """Copies a network to a file whose bytes depend on `of` too."""
    shutil.copy(network, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = json.dumps(of).encode()


def log_training_in(folder: Path, root: Path, params: Params, gate: Barrier) -> None:
    """A training of one epoch that begins when all others do, for a process of its own."""
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ |= {"DVC_EXP_NAME": folder.name, "DVC_EXP_BASELINE_REV": "a" * 40}
    tracking.ROOT = root
    gate.wait(120)
    with tracking.TrainingRun("unet", params, manifest()) as run:
        run.log_epoch({"epoch": 1, "loss": 0.9}, seconds=2.0, images_per_second=4.5)
        assert run.run_id
