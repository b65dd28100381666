"""The ablation: levers are allowed parameters, and the table's arithmetic is right."""

from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from stages.params import check_params
from tests.benchmarks.ablation import DOCS_FOLDER, LEVERS, METRICS, command, levers, page

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("network", LEVERS["networks"])
def test_every_lever_makes_other_parameters_that_are_allowed(network: str, tmp_path: Path) -> None:
    seen = []
    path = tmp_path / "params.yaml"
    for lever in levers(network):
        path.write_text((ROOT / "params.yaml").read_text())
        *start, name, stage = command(network, lever, 3)[:7]
        assert start == ["dvc", "exp", "run", "--queue", "--name"]
        assert (name, stage) == (f"{network}-{lever}-s3", f"evaluate@{network}")
        apply_overrides(path, command(network, lever, 3)[8::2])
        params = check_params(yaml.safe_load(path.read_text()))
        assert (params.networks, params.seed) == ([network], 3)
        assert params not in seen
        seen.append(params)


def test_the_table_shows_means_over_seeds_and_differences_to_the_plain_recipe() -> None:
    rows = pd.DataFrame(
        [
            ("plain", 0, 0.80, 0.50, 0.78, 0.49),
            ("ema", 0, 0.82, 0.54, 0.78, 0.48),
            ("ema", 1, 0.84, 0.52, 0.79, 0.48),  # seed 1 has no plain recipe to be compared with
            ("plain", 2, 0.80, 0.50, 0.78, 0.49),
            ("dice", 0, 0.82, 0.48, 0.78, 0.50),
            ("dice", 2, 0.83, 0.51, 0.78, 0.52),
        ],
        columns=["lever", "seed", *METRICS],
    )
    assert page("unet", rows).splitlines()[6:] == [
        "| plain recipe | 2 | 0.800 | 0.500 | 0.780 | 0.490 |",
        "| averaged weights, momentum 0.99 | 2"
        " | 0.830 (+2.0) | 0.530 (+4.0) | 0.785 (+0.0) | 0.480 (-1.0) |",
        "| Dice loss added, weight 0.5 | 2"
        " | 0.825 (+2.5; +2.0 to +3.0) | 0.495 (-0.5; -2.0 to +1.0)"
        " | 0.780 (+0.0; +0.0 to +0.0) | 0.510 (+2.0; +1.0 to +3.0) |",
    ]


@pytest.mark.parametrize("network", LEVERS["networks"])
def test_the_committed_table_is_that_of_the_committed_rows(network: str) -> None:
    path = ROOT / DOCS_FOLDER / f"ablation.{network}.md"
    assert path.read_text(encoding="utf-8") == page(network, pd.read_csv(path.with_suffix(".csv")))
