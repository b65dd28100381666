"""Stage `plot`: draws the figures and writes the report, as Markdown and as one HTML page."""

import csv
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from matplotlib.figure import Figure
from PIL import Image

from stages.metrics import comparison
from stages.metrics.comparison import Results
from stages.metrics.image_table import ImageTable, read_image_table
from stages.params import PARAMS_FILE, flat, load_params
from stages.plot import figures, page, report
from stages.plot.export_report import Exports
from stages.plot.report import Findings, title
from stages.records.manifest import (
    EXAMPLES_FILE,
    RECORDS_FOLDER,
    Manifest,
    file_sha256,
    read_arrays,
    read_manifest,
)
from stages.run_record import RECORDS_FOLDER as RUN_RECORDS_FOLDER
from stages.stage import StageError, replacing, run_stage

METRICS_FOLDER = Path("metrics")
REPORTS_FOLDER = Path("reports")
HISTORY = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_mean_iou")
RUN_RECORD = ("seconds", "python", "packages", "system", "processor", "cores", "gpus")

# What `export` notes beside.
LATENCIES = "latency_ms"

Pixels = npt.NDArray[np.uint8]


def main() -> None:
    """Writes the report of all networks of params.yaml into reports/."""
    params = load_params()
    manifest = read_manifest()
    examples = read_arrays(RECORDS_FOLDER, manifest, EXAMPLES_FILE)
    findings = read_findings(params.networks, manifest, params.seed)
    predictions = {
        title(name): read_masks(name, examples["test_masks"].shape) for name in params.networks
    }
    strips = {
        kind: {title(name): read_strips(name, kind, findings) for name in params.networks}
        for kind in ("worst", "best")
    }
    drawn = {}
    for name, figure in draw(findings, examples, predictions, strips).items():
        image = figures.render(figure)
        drawn[f"{name}.png"] = figures.png(image)
        if name in report.PHOTOGRAPHIC:
            drawn[f"{name}.webp"] = figures.webp(image)
    document = report.document(findings)
    REPORTS_FOLDER.mkdir(exist_ok=True)
    for picture in page.pictures_of(document):
        with replacing(REPORTS_FOLDER / picture.file) as new:
            new.write_bytes(drawn[picture.file])
    readme, index = REPORTS_FOLDER / "README.md", REPORTS_FOLDER / "index.html"
    for path, text in (
        (readme, page.markdown(document)),
        (index, page.html(document, drawn, figures.DPI)),
    ):
        with replacing(path) as new:
            new.write_text(text, encoding="utf-8")
    print(f"{report.verdict(findings)}\nreport in {readme} and {index}")


def read_findings(networks: list[str], manifest: Manifest, seed: int) -> Findings:
    """Reads and compares what `train` and `evaluate` wrote.

    Args:
        networks: The networks, in the order of params.yaml.
        manifest: Of the records.
        seed: Of the bootstrap.

    Raises:
        StageError: A file is missing or damaged, or files do not belong together.
    """
    results = {
        name: comparison.read_results(METRICS_FOLDER / f"{name}.json", f"evaluate@{name}")
        for name in networks
    }
    tables = {name: read_images(name, manifest) for name in networks}
    first = tables[networks[0]]
    for name, table in tables.items():
        path = _images_path(name)
        if len(table.file_names) != results[name].images or not table.file_names:
            raise _damaged(path, f"evaluate@{name}")
        if table.file_names != first.file_names:
            raise StageError(
                f"{path} and {_images_path(networks[0])} are of different test pictures;"
                f" `dvc repro -f evaluate@{name} evaluate@{networks[0]}` makes both anew"
            )
    differences = None
    if len(networks) > 1:
        best, other = comparison.ranking(results)[:2]
        tolerances = list(results[best].boundary_f)
        differences = comparison.differences(
            tables[best], tables[other], manifest.class_names, tolerances, seed
        )
    try:
        slices = comparison.slice_rows(results, tables, seed)
    except (KeyError, ValueError) as error:
        path = METRICS_FOLDER / f"{networks[0]}.json"
        raise _damaged(path, f"evaluate@{networks[0]}") from error
    of_network = ("train", "evaluate", "export")
    stages = ["prepare", *(f"{stage}@{name}" for name in networks for stage in of_network)]
    return Findings(
        manifest=manifest,
        manifest_sha256=file_sha256(RECORDS_FOLDER / "manifest.json"),
        results=results,
        tables=tables,
        histories={name: read_history(name) for name in networks},
        differences=differences,
        slices=slices,
        extremes={
            name: comparison.extremes(table, _strip_count(name, manifest.image_size))
            for name, table in tables.items()
        },
        runs={stage: read_run_record(stage) for stage in stages},
        exports={name: read_exports(name) for name in networks},
        params=flat(yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))),
        committed_params=committed_params(),
    )


def draw(
    findings: Findings,
    examples: Mapping[str, Pixels],
    predictions: Mapping[str, Pixels],
    strips: Mapping[str, Mapping[str, list[figures.Strip]]],
) -> dict[str, Figure]:
    """All figures of the report, by file name without ending.

    Args:
        findings: The numbers.
        examples: Pictures and masks as in examples.npz.
        predictions: By the network's title, the masks of the test pictures.
        strips: By "worst" and "best", then by the network's title.
    """
    titled = {title(name): figures for name, figures in findings.results.items()}
    histories = {title(name): history for name, history in findings.histories.items()}
    matrices = {name: np.array(r.confusion_matrix) for name, r in titled.items()}
    names = findings.manifest.class_names
    paths = {
        label: path
        for label, path in report.metric_paths(findings.manifest)
        if path[0] not in ("loss", "calibration_error")
    }
    scores = {name: [_score(r, path) for path in paths.values()] for name, r in titled.items()}
    some_results = next(iter(titled.values()))
    baseline = [comparison.figure(some_results.baseline, path) for path in paths.values()]
    shown = {name: predictions[name] for name in reversed(list(predictions))}
    drawn = {
        "comparison": figures.draw_comparison(scores, baseline, list(paths)),
        "comparison.narrow": figures.draw_comparison(
            scores, baseline, list(paths), width=figures.NARROW
        ),
        "curves": figures.draw_curves(histories),
        "curves.narrow": figures.draw_curves(histories, stacked=True),
        "predictions": figures.draw_predictions(
            examples["test_images"], examples["test_masks"], shown
        ),
        "confusion": figures.draw_confusion(matrices, names),
        "confusion.narrow": figures.draw_confusion(matrices, names, stacked=True),
        "reliability": figures.draw_reliability(
            {name: r.reliability for name, r in titled.items()}
        ),
        "worst": figures.draw_strips(strips["worst"]),
        "best": figures.draw_strips(strips["best"]),
        "samples": figures.draw_samples(examples["train_images"], examples["train_masks"]),
    }
    groups = {
        label: [row._replace(name=report.slice_name(group, row)) for row in findings.slices[group]]
        for group, label in report.GROUPS.items()
        if group in findings.slices
    }
    if groups:
        networks = {name: title(name) for name in findings.results}
        drawn["slices"] = figures.draw_slices(groups, networks)
        drawn["slices.narrow"] = figures.draw_slices(groups, networks, width=figures.NARROW)
    return drawn


def read_images(network: str, manifest: Manifest) -> ImageTable:
    """Reads metrics/<network>.images.csv.

    Raises:
        StageError: The file is missing or not what `evaluate` writes.
    """
    path = _images_path(network)
    try:
        return read_image_table(path, manifest.class_names)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"evaluate@{network}") from error


def read_history(network: str) -> dict[str, list[float]]:
    """Reads the columns of metrics/<network>.history.csv; epochs are whole numbers from 1.

    Raises:
        StageError: The file is missing, empty, cut off, or lacks a column or a number.
    """
    path = METRICS_FOLDER / f"{network}.history.csv"
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines()))
        history = {
            key: [int(row[key]) if key == "epoch" else float(row[key]) for row in rows]
            for key in HISTORY
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"train@{network}") from error
    if not rows or not text.endswith("\n"):
        raise _damaged(path, f"train@{network}")
    return history


def read_masks(network: str, shape: tuple[int, ...]) -> Pixels:
    """Reads the example predictions of a network: uint8 [image, height, width].

    Raises:
        StageError: The file is missing or damaged, or of another shape.
    """
    path = METRICS_FOLDER / f"{network}.examples.png"
    try:
        return _read_picture(path).reshape(shape)
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, f"evaluate@{network}") from error


def read_strips(network: str, kind: str, findings: Findings) -> list[figures.Strip]:
    """Reads the worst or best pictures of a network, with their names and scores.

    Args:
        network: The network.
        kind: "worst" or "best".
        findings: Which pictures of the split they are, and their counts.

    Raises:
        StageError: The file is missing or damaged, or has not the number of pictures expected.
    """
    path = METRICS_FOLDER / f"{network}.{kind}.png"
    places = findings.extremes[network][kind]
    table, size = findings.tables[network], findings.manifest.image_size
    try:
        pixels = _read_picture(path).reshape(len(places), size, 3 * size, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise _damaged(path, f"evaluate@{network}") from error
    scores = comparison.confusion.mean_iou(table.matrices)
    return [
        figures.Strip(picture, table.file_names[place], float(scores[place]))
        for picture, place in zip(pixels, places, strict=True)
    ]


def read_exports(network: str) -> Exports:
    """Reads metrics/<network>.exports.csv.

    Raises:
        StageError: The file is missing or not what `export` writes.
    """
    path = METRICS_FOLDER / f"{network}.exports.csv"
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines()))
        formats = {row.pop("format"): row for row in rows}
        exports = Exports.model_validate({"images": rows[0]["images"], "formats": formats})
    # A ValidationError is a ValueError.
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise _damaged(path, f"export@{network}") from error
    if not text.endswith("\n"):
        raise _damaged(path, f"export@{network}")
    return exports


def read_run_record(stage: str) -> dict[str, Any] | None:
    """Reads what a stage noted on its last run here; None if there is no such note.

    It is a note and no output: DVC may have taken the stage's outputs from its cache.
    """
    try:
        record = json.loads((RUN_RECORDS_FOLDER / f"{stage}.json").read_bytes())
        return {key: record[key] for key in RUN_RECORD} | {
            key: value for key, value in record.items() if key == LATENCIES
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def committed_params() -> dict[str, Any] | None:
    """The flat parameters of the last commit; None without Git, a commit, or the file in it."""
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{PARAMS_FILE}"], capture_output=True, check=True
        )
        values = yaml.safe_load(shown.stdout)
    except (OSError, subprocess.CalledProcessError, yaml.YAMLError):
        return None
    return flat(values) if isinstance(values, dict) else None


def _score(results: Results, path: comparison.Path) -> figures.Score | None:
    value = comparison.figure(results, path)
    low, high = comparison.figure(results.intervals, path) or (None, None)
    return None if value is None else (value, low, high)


def _strip_count(network: str, image_size: int) -> int:
    """How many pictures `evaluate` kept: `extremes`, or fewer of a small split."""
    path = METRICS_FOLDER / f"{network}.worst.png"
    try:
        with Image.open(path) as picture:
            return max(picture.height // image_size, 1)
    except (OSError, SyntaxError) as error:
        raise _damaged(path, f"evaluate@{network}") from error


def _read_picture(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture)


def _images_path(network: str) -> Path:
    return METRICS_FOLDER / f"{network}.images.csv"


def _damaged(path: Path, stage: str) -> StageError:
    return StageError(f"{path} is missing or damaged; `dvc repro -f {stage}` makes it anew")


if __name__ == "__main__":
    run_stage("plot", main)
