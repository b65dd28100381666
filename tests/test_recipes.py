import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from recipes.__main__ import load_recipe, names, overrides
from stages.params import Params, load_params
from stages.stage import StageError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", names())
def test_a_recipe_has_allowed_parameters_and_changes_what_it_names(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    recipe = load_recipe(name)
    apply_overrides(path, overrides(recipe))  # what `dvc exp run -S` does
    changed = load_params(path)
    for key, value in recipe.items():
        assert _value(changed, key) == value, key
    assert changed.networks == recipe["networks"]


def _value(params: Params, key: str) -> object:
    values = params.model_dump()
    for part in key.split("."):
        values = values[part]
    return values


def test_values_keep_their_type_and_their_signs(tmp_path: Path) -> None:
    values = {
        "train_split": "train[:50%]+train[60%:]",
        "networks": ["unet"],
        "test_time_flip": True,
        "epochs": 3,
        "weight_decay": 0.00001,
        "unet.encoder_weights": "none",
    }
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(path, overrides(values))
    changed = load_params(path)
    assert {key: _value(changed, key) for key in values} == values


def test_an_unknown_recipe_is_one_line_that_names_those_there_are() -> None:
    with pytest.raises(StageError, match=r"no recipe 'u-net'; there are conv_deconv, unet"):
        load_recipe("u-net")


def test_the_command_runs_the_recipe_in_a_copy(tmp_path: Path) -> None:
    """The command that is run, noted by a program of dvc's name."""
    program = tmp_path / "dvc"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/arguments\nexit 3\n")
    program.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-m", "recipes", "unet", "--name", "mine", "-S", "epochs=2"],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 3
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:5] == ["exp", "run", "--temp", "--name", "mine"]
    # The last value of a key wins.
    given = [argument for argument in arguments if argument.startswith("epochs=")]
    assert given == [
        f"epochs={yaml.safe_load((ROOT / 'recipes/unet.yaml').read_text())['epochs']}",
        "epochs=2",
    ]
