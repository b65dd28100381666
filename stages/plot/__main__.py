"""Stage `plot`: draws the figures, and writes the report and the model cards."""

import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from stages.metrics.comparison import differences
from stages.params import load_params
from stages.plot import figures, page, report
from stages.plot.inputs import Examples, Networks, read_network
from stages.records.manifest import (
    EXAMPLES_FILE,
    RECORDS_FOLDER,
    file_sha256,
    read_arrays,
    read_manifest,
)
from stages.stage import replacing, run_stage

REPORTS_FOLDER = Path("reports")


def main() -> None:
    """Writes the report of all networks of params.yaml into reports/."""
    params, manifest = load_params(), read_manifest()
    size = manifest.image_size
    examples = read_arrays(RECORDS_FOLDER, manifest, EXAMPLES_FILE)
    networks = [read_network(name, i, size) for i, name in enumerate(params.networks)]
    best, *others = ranking = sorted(networks, key=lambda network: -network.results.mean_iou)
    gaps = differences(best.images, others[0].images, params.seed) if others else None
    dataset = f"{manifest.dataset} {manifest.version}"
    learned = [f"{manifest.splits[name].examples:,} {name}" for name in ("train", "validation")]
    context = {
        "networks": networks,
        "ranking": ranking,
        "differences": gaps,
        "slices": report.slices(networks),
        "manifest": manifest,
        "manifest_sha256": file_sha256(RECORDS_FOLDER / "manifest.json"),
        "params": params,
        "parameters": pd.json_normalize(params.model_dump()).map(json.dumps).iloc[0],
        "verdict": report.verdict(ranking, gaps),
        "dataset": dataset,
        "splits": ", ".join([*learned, networks[0].tested]),
        "subtitle": f"{dataset}, {networks[0].tested}, {size} × {size} pixels",  # noqa: RUF001
    }
    text = report.render("report.md.j2", **context)
    drawn = draw(networks, examples)
    files = {f"{name}.png": figures.png(figure) for name, figure in drawn.items()}
    files |= {"README.md": text.encode(), "index.html": page.html(text, files, context).encode()}
    for network in networks:
        card = report.render("card.md.j2", network=network, **context)
        files[f"{network.name}.card.md"] = card.encode()
    REPORTS_FOLDER.mkdir(exist_ok=True)
    for name, content in files.items():
        with replacing(REPORTS_FOLDER / name) as new:
            new.write_bytes(content)
    print(f"{context['verdict']}\nreport in {REPORTS_FOLDER}/README.md and index.html")


def draw(networks: Networks, examples: Examples) -> dict[str, Figure]:
    """All figures, by name."""
    return {
        "comparison": figures.draw_comparison(networks),
        "curves": figures.draw_curves(networks),
        "predictions": figures.draw_predictions(examples, networks),
        "confusion": figures.draw_confusion(networks),
        "reliability": figures.draw_reliability(networks),
        "worst": figures.draw_strips(networks, "worst"),
        "best": figures.draw_strips(networks, "best"),
        "samples": figures.draw_samples(examples),
        "slices": figures.draw_slices(networks, report.slices(networks)),
    }


if __name__ == "__main__":
    run_stage("plot", main)
