"""README and docs tell the truth about the committed results, commands and files."""

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from recipes.__main__ import names

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "data/own/README.md", *ROOT.glob("docs/*.md")]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXTS.values())
NETWORKS = pytest.mark.parametrize(
    ("network", "title"), [("conv_deconv", "Conv-Deconv"), ("unet", "U-Net")]
)


def _rows(page: Path, start: str) -> list[list[str]]:
    """Cells, without the first, of the rows that start so."""
    lines = [line for line in TEXTS[page].splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


@NETWORKS
def test_the_first_result_table_is_that_of_the_committed_metrics(network: str, title: str) -> None:
    results = json.loads((ROOT / "metrics" / f"{network}.json").read_text())
    intervals, baseline = results["intervals"], results["baseline"]
    keys = [("accuracy",), ("mean_iou",), ("iou", "border"), ("boundary_f", "2px")]

    def at(values: dict, key: tuple[str, ...]) -> float:
        return values[key[0]] if len(key) == 1 else values[key[0]][key[1]]

    shown = [(at(results, key), *at(intervals, key)) for key in keys]  # type: ignore[misc]
    (cells,) = _rows(README, f"| {title}, ")
    assert cells == [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in shown]
    assert _rows(README, "| no learning |")[0] == [f"{at(baseline, key):.3f}" for key in keys]


@NETWORKS
def test_the_second_result_table_is_that_of_the_networks_that_ship(
    network: str, title: str
) -> None:
    (card,) = ROOT.glob(f"pets/weights/{network}-*.md")
    (cells,) = _rows(README, f"| [{title}](pets/weights/{card.name}), ")
    baseline = _rows(README, "| no learning |")[1]
    for index, metric in enumerate(("Accuracy", "Mean IoU", "IoU border", "Boundary F, 2 px")):
        assert f"| {metric} | {cells[index]} | {baseline[index]} |" in card.read_text()


def test_the_table_of_exports_is_that_of_the_committed_comparison() -> None:
    names = ["Keras", "SavedModel", "LiteRT float32", "LiteRT float16"]
    names += ["LiteRT dynamic range", "LiteRT int8", "ONNX"]
    table = pd.read_csv(ROOT / "metrics/unet.exports.csv")
    for name, row in zip(names, table.itertuples(), strict=True):
        ((size, _, agreement, iou, *_),) = _rows(ROOT / "docs/exports.md", f"| {name} |")
        assert (size, iou) == (f"{row.bytes / 1e6:.2f} MB", f"{row.mean_iou:.4f}")
        assert agreement in ("", f"{row.agreement * 100:.2f} %")


def test_the_committed_results_are_those_of_the_committed_parameters() -> None:
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in lock["stages"].items():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            assert params[key] == value, f"{name} last ran with another {key}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_pictures_and_named_files_are_there(page: Path) -> None:
    for link in re.findall(r"(?:\]\(|src=\")(?!https?://)([^)\"]+)[)\"]", TEXTS[page]):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], link
    for name in re.findall(r"`((?:stages|tests|recipes|docs|\.github)/[\w./]+)`", TEXTS[page]):
        assert (ROOT / name).exists(), name


def test_every_page_of_docs_is_linked() -> None:
    linked = {Path(name).name for name in re.findall(r"\]\(([\w./-]+\.md)", ALL)}
    assert {page.name for page in ROOT.glob("docs/*.md")} <= linked


def test_every_fault_of_the_table_has_its_test() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", TEXTS[ROOT / "docs/faults.md"])
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", ALL):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for module in re.findall(r"python -m ([\w.]*\w)", ALL):
        assert importlib.util.find_spec(module), module
    assert set(re.findall(r"RECIPE=(\w+)", ALL)) <= set(names())
