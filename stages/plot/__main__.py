"""Stage `plot`: draws the figures, and writes the report and the model cards."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from stages.metrics.comparison import differences
from stages.params import load_params
from stages.plot import figures, page, report
from stages.plot.inputs import Networks, Pixels, read_networks
from stages.records.manifest import (
    EXAMPLES_FILE,
    RECORDS_FOLDER,
    file_sha256,
    read_arrays,
    read_manifest,
)
from stages.stage import replacing, run_stage

REPORTS_FOLDER = Path("reports")
# Figures with photographs in them: as WebP they have half of the bytes on the page.
PHOTOGRAPHIC = ("predictions", "samples", "worst", "best")


def main() -> None:
    """Writes the report of all networks of params.yaml into reports/."""
    params = load_params()
    manifest = read_manifest()
    examples = read_arrays(RECORDS_FOLDER, manifest, EXAMPLES_FILE)
    networks = read_networks(params, manifest.image_size, len(examples["test_masks"]))
    ranking = sorted(networks, key=lambda network: -network.results.mean_iou)
    gaps = None
    if len(networks) > 1:
        gaps = differences(ranking[0].images, ranking[1].images, params.seed)
    dataset = f"{manifest.dataset} {manifest.version}"
    context = {
        "networks": networks,
        "ranking": ranking,
        "differences": gaps,
        "slices": report.slices(networks),
        "manifest": manifest,
        "manifest_sha256": file_sha256(RECORDS_FOLDER / "manifest.json"),
        "params": pd.json_normalize(params.model_dump()).map(json.dumps).iloc[0],
        "verdict": report.verdict(ranking, gaps),
        "dataset": dataset,
        "subtitle": f"{dataset}, {networks[0].results.images:,} test images,"
        f" {manifest.image_size} \N{MULTIPLICATION SIGN} {manifest.image_size} pixels",
        "flip": params.test_time_flip,
    }
    drawn = {name: figures.render(figure) for name, figure in draw(networks, examples).items()}
    images = {f"{name}.png": figures.encode(image, "png") for name, image in drawn.items()}
    text = report.render("report.md.j2", **context)
    webp = {f"{name}.webp": figures.encode(drawn[name], "webp") for name in PHOTOGRAPHIC}
    files = {
        **images,
        "README.md": text.encode(),
        "index.html": page.html(text, images | webp, context).encode(),
    }
    for network in networks:
        card = report.render("card.md.j2", network=network, **context)
        files[f"{network.name}.card.md"] = card.encode()
    REPORTS_FOLDER.mkdir(exist_ok=True)
    for name, content in files.items():
        with replacing(REPORTS_FOLDER / name) as new:
            new.write_bytes(content)
    print(f"{context['verdict']}\nreport in {REPORTS_FOLDER}/README.md and index.html")


def draw(networks: Networks, examples: Mapping[str, Pixels]) -> dict[str, Figure]:
    """All figures, by name."""
    metrics = [m for m in report.METRICS if m[1][0] not in report.LOWER_IS_BETTER]
    slices = report.slices(networks)
    test = examples["test_images"], examples["test_masks"]
    drawn = {
        "comparison": figures.draw_comparison(networks, metrics),
        "curves": figures.draw_curves(networks),
        "predictions": figures.draw_predictions(*test, networks),
        "confusion": figures.draw_confusion(networks),
        "reliability": figures.draw_reliability(networks),
        "worst": figures.draw_strips(networks, "worst"),
        "best": figures.draw_strips(networks, "best"),
        "samples": figures.draw_samples(examples["train_images"], examples["train_masks"]),
    }
    return drawn | ({"slices": figures.draw_slices(networks, slices)} if slices else {})


if __name__ == "__main__":
    run_stage("plot", main)
