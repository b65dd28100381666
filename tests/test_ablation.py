from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from stages.params import check_params
from tests.benchmarks.ablation import (
    LEVERS,
    LEVERS_OF_NETWORK,
    Figures,
    Lever,
    add_to_record,
    lever_overrides,
    read_record,
    table,
)

ROOT = Path(__file__).resolve().parents[1]


def _applied(network: str, lever: Lever, folder: Path) -> dict[str, Any]:
    path = folder / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(path, lever_overrides(network, lever, 3))
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("network", sorted(LEVERS_OF_NETWORK))
def test_every_lever_makes_other_parameters_that_are_allowed(network: str, tmp_path: Path) -> None:
    seen = []
    for lever in {**LEVERS, **LEVERS_OF_NETWORK[network]}.values():
        values = _applied(network, lever, tmp_path)
        params = check_params(values)
        assert (params.networks, params.seed) == ([network], 3)
        assert params not in seen, lever.title
        seen.append(params)


def test_the_table_shows_means_over_seeds_and_differences_to_the_plain_recipe() -> None:
    levers = {
        "plain": Lever("plain recipe", {}),
        "a": Lever("A", {}),
        "b": Lever("B", {}),
        "c": Lever("C", {}),
    }
    figures = {
        ("plain", 0): Figures(0.80, 0.50, 0.78, 0.49),
        ("a", 0): Figures(0.82, 0.54, 0.78, 0.48),
        ("a", 1): Figures(0.84, 0.52, 0.79, 0.48),
        ("plain", 2): Figures(0.80, 0.50, 0.78, 0.49),
        ("b", 0): Figures(0.82, 0.48, 0.78, 0.50),
        ("b", 2): Figures(0.83, 0.51, 0.78, 0.52),
    }
    lines = table("unet", levers, figures).splitlines()
    assert "| plain recipe | 2 | 0.800 | 0.500 | 0.780 | 0.490 |" in lines
    # Seed 1 has no plain recipe to be compared with.
    assert "| A | 2 | 0.830 (+2.0) | 0.530 (+4.0) | 0.785 (+0.0) | 0.480 (-1.0) |" in lines
    assert (
        "| B | 2 | 0.825 (+2.5; +2.0 to +3.0) | 0.495 (-0.5; -2.0 to +1.0)"
        " | 0.780 (+0.0; +0.0 to +0.0) | 0.510 (+2.0; +1.0 to +3.0) |"
    ) in lines
    assert not any(line.startswith("| C") for line in lines)


def test_the_record_keeps_every_row_that_was_added(tmp_path: Path) -> None:
    path = tmp_path / "ablation.unet.csv"
    assert read_record(path) == {}
    rows = {
        ("plain", 0): Figures(0.8, 0.5, 0.78, 0.49),
        ("a", 2): Figures(0.25, 1.0, 0.0, 0.123456),
    }
    for (lever, seed), figures in rows.items():
        add_to_record(path, lever, seed, figures)
    assert read_record(path) == rows
