import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.utils.flatten import flatten
from dvc.utils.hydra import apply_overrides

from recipes.__main__ import load_recipe, names, overrides
from stages.params import load_params

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", names())
def test_a_recipe_has_allowed_parameters_and_changes_what_it_names(
    name: str, tmp_path: Path
) -> None:
    values = load_recipe(name)
    # Values keep their type and their signs.
    values |= {"train_split": "train[:50%]+train[60%:]", "weight_decay": 0.00001}
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(path, overrides(values))  # as `dvc exp run -S` does
    assert values.items() <= flatten(load_params(path).model_dump()).items()


def test_the_command_runs_the_recipe_in_a_copy_with_the_images_of_ones_own(tmp_path: Path) -> None:
    """The command that is run, noted by a program of dvc's name."""
    program = tmp_path / "dvc"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/arguments\nexit 3\n")
    program.chmod(0o755)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for name in ("images/rex.jpg", "masks/rex.png", "masks.dvc"):
        path = tmp_path / "data" / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    shutil.copy(ROOT / "data" / "own" / ".gitignore", tmp_path / "data" / "own")
    subprocess.run(["git", "add", "data/own"], cwd=tmp_path, check=True)
    programs = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [sys.executable, "-m", "recipes", "unet", "--name", "mine", "-S", "epochs=2"],
        cwd=tmp_path,
        env={**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 3
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:3] == ["exp", "run", "--temp"]
    assert [each for each in arguments if "copy" in each] == ["--copy-paths=data/own/images/"]
    assert f"--set-param=epochs={load_recipe('unet')['epochs']}" in arguments
    assert arguments[-4:] == ["--name", "mine", "-S", "epochs=2"]  # the last value of a key wins
