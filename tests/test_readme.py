"""The README tells the truth about the committed results and the files that it names."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("network", "title"), [("conv_deconv", "Conv-Deconv"), ("unet", "U-Net")])
def test_the_first_result_table_is_that_of_the_committed_metrics(network: str, title: str) -> None:
    figures = json.loads((ROOT / "metrics" / f"{network}.json").read_text())
    row = next(line for line in README.splitlines() if line.startswith(f"| {title} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    intervals = figures["intervals"]
    shown = [
        (figures["accuracy"], intervals["accuracy"]),
        (figures["mean_iou"], intervals["mean_iou"]),
        *((figures["iou"][name], intervals["iou"][name]) for name in figures["iou"]),
        (figures["boundary_f"]["2px"], intervals["boundary_f"]["2px"]),
    ]
    assert cells == [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, (low, high) in shown]


def test_the_committed_results_are_those_of_the_committed_parameters() -> None:
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, stage in lock["stages"].items():
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            assert params[key] == value, f"{name} last ran with another {key}"


def test_links_and_pictures_are_there() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
    named = re.findall(r"`((?:stages|tests)/[\w./]+)`", README)
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_fault_of_the_table_has_its_test() -> None:
    table = (ROOT / "tests" / "FAULTS.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", table)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


def test_commands_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)\b", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
