"""What each lever of the learning recipe does on its own, as DVC experiments and a table.

`python -m tests.benchmarks.ablation unet` runs what is missing in reports/ablation.unet.csv, one
experiment after the other, adds a row for each and writes the table of all rows beside it, as .md.
Each experiment has a name (`unet-lovasz-s0`), so that it can be looked at (`dvc exp show`, MLflow),
repeated and removed. Remove the CSV file to begin anew after a change of the plain recipe. Levers
are compared by the validation pictures; the test figures stand beside them.
"""

import argparse
import csv
import io
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import dvc.api
from dvc.repo import Repo

from recipes.__main__ import overrides

REPORTS_FOLDER = Path("reports")
DATASET = "oxford_iiit_pet"


class Lever(NamedTuple):
    """One change of the plain recipe."""

    title: str
    changes: Mapping[str, object]


# Flips, cosine decay with one epoch of warm-up, Adam, cross-entropy, one epoch being one pass.
PLAIN: Mapping[str, object] = {
    "dataset": DATASET,
    "train_image_scale": 1.0,
    "validation_share": 0.15,
    "batch_size": 16,
    "learning_rate_schedule": "cosine",
    "warmup_epochs": 1,
    "weight_decay": 0.0,
    "ema_momentum": 0.0,
    "batch_norm_batches": 0,
    "test_time_flip": False,
    "augmentation.horizontal_flip": True,
    "augmentation.crop_scale": 1.0,
    "augmentation.crop_aspect": 1.0,
    "augmentation.brightness": 0.0,
    "augmentation.contrast": 0.0,
    "augmentation.saturation": 0.0,
    "loss.label_smoothing": 0.0,
    "loss.border_weight": 1.0,
    "loss.dice_weight": 0.0,
    "loss.lovasz_weight": 0.0,
}
PLAIN_OF_NETWORK: Mapping[str, Mapping[str, object]] = {
    "conv_deconv": {
        "train_split": "train[:50%]",
        "epochs": 12,
        "conv_deconv.learning_rate": 0.003,
    },
    "unet": {
        "train_split": "train[:20%]",  # two levers at once take three minutes
        "epochs": 5,
        "unet.learning_rate": 0.001,
        "unet.encoder_weights": "imagenet",
        "unet.train_encoder": False,
        "unet.encoder_learning_rate_factor": 1.0,
        "unet.encoder_batch_statistics": "stored",
        "unet.input_range": "signed_unit",
        "unet.batch_norm_momentum": 0.9,
    },
}
LEVERS: Mapping[str, Lever] = {
    "plain": Lever("plain recipe", {}),
    "no-flip": Lever("without flips", {"augmentation.horizontal_flip": False}),
    "constant": Lever("constant learning rate", {"learning_rate_schedule": "constant"}),
    "warmup": Lever("twice the warm-up", {"warmup_epochs": 2}),
    "batch-32": Lever("batches of 32", {"batch_size": 32}),
    "crop": Lever("crops from 60 % of the side", {"augmentation.crop_scale": 0.6}),
    "crop-192": Lever(
        "the same, from pictures of 192 pixels",
        {"augmentation.crop_scale": 0.6, "train_image_scale": 1.5},
    ),
    "color": Lever(
        "brightness, contrast, saturation by 20 to 30 %",
        {
            "augmentation.brightness": 0.2,
            "augmentation.contrast": 0.2,
            "augmentation.saturation": 0.3,
        },
    ),
    "decay": Lever("weight decay 0.01 (AdamW)", {"weight_decay": 0.01}),
    "ema": Lever("averaged weights, momentum 0.99", {"ema_momentum": 0.99}),
    "smoothing": Lever("label smoothing 0.05", {"loss.label_smoothing": 0.05}),
    "border": Lever("border pixels count twice", {"loss.border_weight": 2.0}),
    "dice": Lever("Dice loss added, weight 0.5", {"loss.dice_weight": 0.5}),
    "lovasz": Lever("Lovasz loss added, weight 0.5", {"loss.lovasz_weight": 0.5}),
    "test-flip": Lever("mean over the mirror image when tested", {"test_time_flip": True}),
}
LEVERS_OF_NETWORK: Mapping[str, Mapping[str, Lever]] = {
    "conv_deconv": {
        "third": Lever("a third of the learning rate", {"conv_deconv.learning_rate": 0.001}),
    },
    "unet": {
        "unit": Lever("input in [0, 1] instead of [-1, 1]", {"unet.input_range": "unit"}),
        "encoder": Lever(
            "encoder trained too, stored statistics, 0.3 of the learning rate",
            {"unet.train_encoder": True, "unet.encoder_learning_rate_factor": 0.3},
        ),
        "encoder-full": Lever(
            "encoder trained too, stored statistics", {"unet.train_encoder": True}
        ),
        "encoder-batch": Lever(
            "encoder trained too, statistics of the batches, 0.3 of the learning rate",
            {
                "unet.train_encoder": True,
                "unet.encoder_learning_rate_factor": 0.3,
                "unet.encoder_batch_statistics": "batch",
            },
        ),
        "momentum": Lever("batch-norm momentum 0.99", {"unet.batch_norm_momentum": 0.99}),
        "momentum-estimated": Lever(
            "the same, statistics measured before validation",
            {"unet.batch_norm_momentum": 0.99, "batch_norm_batches": 30},
        ),
    },
}
# What a reader of a network's table has to know besides.
NOTES: Mapping[str, str] = {
    "conv_deconv": " Seed 0 had its pictures decoded by TensorFlow, as `prepare` did before; both"
    " sides of a difference always had theirs decoded alike.",
    "unet": " Twice the warm-up is two epochs of five: the shape of a one-cycle learning rate"
    " (Smith, Topin, 2018).",
}


class Figures(NamedTuple):
    """What one experiment reached: on the validation split at the best epoch, and on the test's."""

    val_accuracy: float
    val_mean_iou: float
    test_accuracy: float
    test_mean_iou: float


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=sorted(PLAIN_OF_NETWORK))
    parser.add_argument("--levers", nargs="*", help="names of levers; all of them without")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    options = parser.parse_args()
    network = options.network
    levers = {**LEVERS, **LEVERS_OF_NETWORK[network]}
    unknown = set(options.levers or ()) - set(levers)
    if unknown:
        parser.error(f"there is no lever {sorted(unknown)}; there are {', '.join(levers)}")
    record = REPORTS_FOLDER / f"ablation.{network}.csv"
    for seed in options.seeds:
        for name in options.levers or levers:
            if (name, seed) not in read_record(record):
                experiment = experiment_name(network, name, seed)
                if experiment not in existing_experiments():
                    run_experiment(
                        experiment, network, lever_overrides(network, levers[name], seed)
                    )
                add_to_record(record, name, seed, read_figures(network, experiment))
    path = record.with_suffix(".md")
    path.write_text(table(network, levers, read_record(record)), encoding="utf-8")
    print(path)


def experiment_name(network: str, lever: str, seed: int) -> str:
    """The name of the DVC experiment of a lever."""
    return f"{network}-{lever}-s{seed}"


def lever_overrides(network: str, lever: Lever, seed: int) -> list[str]:
    """The values for `dvc exp run -S`, each as key=value."""
    values = {
        "networks": [network],
        **PLAIN,
        **PLAIN_OF_NETWORK[network],
        **lever.changes,
        "seed": seed,
    }
    return overrides(values)


def existing_experiments() -> list[str]:
    """The names of the experiments on the current commit."""
    listed = Repo().experiments.ls()
    return [name for names in listed.values() for name, _ in names]


def run_experiment(name: str, network: str, values: Sequence[str]) -> None:
    """Runs one experiment in a copy of the workspace, and stops where it fails."""
    command = ["dvc", "exp", "run", "--temp", "--name", name, f"evaluate@{network}"]
    for value in values:
        command += ["-S", value]
    print(name, file=sys.stderr)
    subprocess.run(command, check=True)


def read_figures(network: str, experiment: str) -> Figures:
    """The figures of an experiment, from the files in its commit."""
    history = dvc.api.read(f"metrics/{network}.history.csv", rev=experiment)
    rows = list(csv.DictReader(io.StringIO(history)))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    test = json.loads(dvc.api.read(f"metrics/{network}.summary.json", rev=experiment))[network]
    return Figures(
        float(best["val_accuracy"]),
        float(best["val_mean_iou"]),
        test["accuracy"],
        test["mean_iou"],
    )


def read_record(path: Path) -> dict[tuple[str, int], Figures]:
    """The figures that are already there, by lever and seed; none where there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (row["lever"], int(row["seed"])): Figures(*(float(row[key]) for key in Figures._fields))
            for row in csv.DictReader(file)
        }


def add_to_record(path: Path, lever: str, seed: int, figures: Figures) -> None:
    """Adds a row, and the header to a new file."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["lever", "seed", *Figures._fields])
        writer.writerow([lever, seed, *(f"{value:.6f}" for value in figures)])


def table(
    network: str,
    levers: Mapping[str, Lever],
    figures: Mapping[tuple[str, int], Figures],
) -> str:
    """The table in Markdown: means over the seeds, and differences to the plain recipe in points.

    A difference is that of the seeds that both have: the mean, and the lowest and highest of
    several.

    Args:
        network: The network's name.
        levers: By name, in the table's order.
        figures: By lever's name and seed; levers without any are left out.
    """
    lines = [
        "| lever | seeds | validation accuracy | mean IoU | test accuracy | mean IoU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, lever in levers.items():
        seeds = sorted(seed for lever_name, seed in figures if lever_name == name)
        cells = []
        for column in range(len(Figures._fields)):
            values = [figures[name, seed][column] for seed in seeds]
            differences = [
                100 * (value - figures["plain", seed][column])
                for seed, value in zip(seeds, values, strict=True)
                if ("plain", seed) in figures
            ]
            shown = differences if name != "plain" else []
            difference = f" ({_difference(shown)})" if shown else ""
            cells.append(f"{statistics.mean(values):.3f}{difference}" if values else "")
        if seeds:
            lines.append(f"| {lever.title} | {len(seeds)} | {' | '.join(cells)} |")
    settings = PLAIN_OF_NETWORK[network]
    return (
        f"# What each lever does on its own: {network}\n\n"
        f"{settings['epochs']} epochs on {DATASET}, {settings['train_split']}; the plain recipe and"
        " the changes are in tests/benchmarks/ablation.py. In brackets the difference to the plain"
        " recipe in points, the mean over the seeds that both have, and behind it the lowest and"
        " the highest where there are several; differences under a point need three seeds before"
        f" they mean anything.{NOTES.get(network, '')}\n\n" + "\n".join(lines) + "\n"
    )


def _difference(points: Sequence[float]) -> str:
    mean = f"{statistics.mean(points):+z.1f}"
    return mean if len(points) == 1 else f"{mean}; {min(points):+z.1f} to {max(points):+z.1f}"


if __name__ == "__main__":
    main()
