"""What each lever of the learning recipe does on its own: DVC experiments, and a table of them.

`python -m tests.benchmarks.ablation queue unet --seeds 0 1` queues an experiment for each lever of
ablation.yaml and seed (`unet-lovasz-s0`), `dvc queue start` runs them, and
`python -m tests.benchmarks.ablation table unet` adds those that are done to docs/ablation.unet.csv
and writes docs/ablation.unet.md. Levers are compared by the validation images.
"""

import argparse
import io
import subprocess
from pathlib import Path
from typing import Any

import dvc.api
import pandas as pd
import yaml

from recipes.__main__ import overrides

LEVERS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
METRICS = ["val_accuracy", "val_mean_iou", "test_accuracy", "test_mean_iou"]


def main() -> None:
    """Queue experiments, or write the table of those that are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["queue", "table"])
    parser.add_argument("network", choices=LEVERS["networks"])
    parser.add_argument("--levers", nargs="*", help="to queue; all of them without")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="to queue")
    options = parser.parse_args()
    if options.action == "queue":
        for seed in options.seeds:
            for name in options.levers or levers(options.network):
                subprocess.run(command(options.network, name, seed), check=True)
        return
    path = Path(f"docs/ablation.{options.network}.csv")
    rows = pd.concat([pd.read_csv(path) if path.exists() else None, finished(options.network)])
    rows = rows.drop_duplicates(["lever", "seed"], keep="last")
    rows.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    path.with_suffix(".md").write_text(page(options.network, rows), encoding="utf-8")


def levers(network: str) -> dict[str, dict[str, Any]]:
    """The levers of a network by name: a title, and changes by dotted keys."""
    return LEVERS["levers"] | LEVERS["networks"][network]["levers"]


def command(network: str, lever: str, seed: int) -> list[str]:
    """The command that queues the experiment of a lever."""
    plain = LEVERS["plain"] | LEVERS["networks"][network]["plain"]
    values = {"networks": [network]} | plain | levers(network)[lever] | {"seed": seed}
    del values["title"]
    changes = [part for change in overrides(values) for part in ("-S", change)]
    name = f"{network}-{lever}-s{seed}"
    return ["dvc", "exp", "run", "--queue", "--name", name, f"evaluate@{network}", *changes]


def finished(network: str) -> pd.DataFrame:
    """The experiments of levers that are done: lever, seed and METRICS of the best epoch."""
    shown = subprocess.run(
        ["dvc", "exp", "show", "--csv"], capture_output=True, text=True, check=True
    ).stdout
    table = pd.read_csv(io.StringIO(shown)).dropna(subset=["Experiment", f"{network}.accuracy"])
    table[["lever", "seed"]] = table["Experiment"].str.extract(rf"^{network}-(.+)-s(\d+)$")
    table = table[table["lever"].isin(levers(network))].astype({"seed": int})
    for index, name in table["Experiment"].items():
        file = dvc.api.read(f"metrics/{network}.history.csv", rev=name)
        history = pd.read_csv(io.StringIO(file)).set_index("val_loss")
        table.loc[index, METRICS[:2]] = history.loc[history.index.min(), METRICS[:2]]
    tested = {f"{network}.{name}": f"test_{name}" for name in ("accuracy", "mean_iou")}
    return table.rename(columns=tested)[["lever", "seed", *METRICS]]


def page(network: str, rows: pd.DataFrame) -> str:
    """The table in Markdown: means over the seeds, differences to the plain recipe in points."""
    values = rows.set_index(["lever", "seed"])[METRICS]
    lines = []
    for lever, options in levers(network).items():
        if lever not in values.index:
            continue
        own = values.loc[lever]
        points = 100 * (own - values.loc["plain"]).dropna()
        cells = [f"{mean:.3f}" for mean in own.mean()]
        if lever != "plain" and len(points):
            spreads = [_spread(points[name]) for name in METRICS]
            cells = [f"{cell} ({spread})" for cell, spread in zip(cells, spreads, strict=True)]
        lines.append(f"| {options['title']} | {len(own)} | {' | '.join(cells)} |\n")
    plain, note = (LEVERS["networks"][network][key] for key in ("plain", "note"))
    return (
        f"# What each lever does on its own: {network}\n\n{plain['epochs']} epochs on"
        f" {LEVERS['plain']['dataset']}, {plain['train_split']}; the plain recipe and the changes"
        " are in tests/benchmarks/ablation.yaml. In brackets the difference to the plain recipe in"
        " points, the mean over the seeds that both have, and behind it the lowest and the highest"
        " where there are several; differences under a point need three seeds before they mean"
        f" anything. {note}\n\n"
        "| lever | seeds | validation accuracy | mean IoU | test accuracy | mean IoU |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "".join(lines)
    )


def _spread(points: pd.Series) -> str:
    mean = f"{points.mean():+z.1f}"
    return mean if len(points) == 1 else f"{mean}; {points.min():+z.1f} to {points.max():+z.1f}"


if __name__ == "__main__":
    main()
