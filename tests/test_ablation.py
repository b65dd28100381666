"""The ablation: levers are allowed parameters, and the table's arithmetic is right."""

from pathlib import Path

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides

from stages.params import load_params
from tests.benchmarks import ablation
from tests.benchmarks.ablation import LEVERS, METRICS, command, finished, levers, page

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
        params = load_params(path)
        assert (params.networks, params.seed) == ([network], 3)
        assert params not in seen
        seen.append(params)


def test_the_experiments_that_are_done_are_found_with_their_best_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = (
        "Experiment,unet.accuracy,unet.mean_iou\n,0.7,0.4\nunet-ema-s12,0.8,0.5\n"
        "unet-ema-s13,,\nunet-other-s0,0.8,0.5\nconv_deconv-ema-s0,0.8,0.5\n"
    )
    history = (
        "epoch,val_loss,val_accuracy,val_mean_iou\n1,0.9,0.1,0.2\n2,0.3,0.6,0.4\n3,0.5,0.9,1\n"
    )
    done = type("Done", (), {"stdout": shown})
    monkeypatch.setattr(ablation.subprocess, "run", lambda *arguments, **options: done)
    monkeypatch.setattr(ablation.dvc.api, "read", lambda file, rev: history)
    assert finished("unet").to_numpy().tolist() == [["ema", 12, 0.6, 0.4, 0.8, 0.5]]


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
    path = ROOT / f"docs/ablation.{network}.md"
    assert path.read_text(encoding="utf-8") == page(network, pd.read_csv(path.with_suffix(".csv")))
