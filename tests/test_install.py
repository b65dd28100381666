"""The package as `pip install .` gives it, in an environment of its own."""

import json
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from tests.color_networks import photograph

ROOT = Path(__file__).resolve().parents[1]
UNREACHABLE = ("Failed to establish a new connection", "Temporary failure in name resolution")


def test_the_wheel_predicts_in_an_empty_environment(tmp_path: Path) -> None:
    source, environment = tmp_path / "source", tmp_path / "environment"
    for name in ("pets", "stages"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    venv.create(environment, with_pip=True)
    installed = subprocess.run(
        [environment / "bin/pip", "install", "--constraint", ROOT / "requirements.lock", source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if any(text in installed.stderr for text in UNREACHABLE):
        pytest.skip("the package index is out of reach")
    assert installed.returncode == 0, installed.stderr
    megabytes = sum(file.stat().st_size for file in environment.rglob("*")) / 1e6
    assert megabytes < 250
    photograph().save(tmp_path / "pet.png")
    ran = subprocess.run(
        [environment / "bin/pets", "predict", "pet.png"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all((tmp_path / file).exists() for file in json.loads(ran.stdout)["outputs"].values())
    program = (
        "from pets import Segmenter; print(Segmenter('conv_deconv').segment('pet.png').mask.shape)"
    )
    python: list[str | Path] = [environment / "bin/python", "-c", program]
    ran = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "(60, 90)\n"
    ran = subprocess.run(
        [environment / "bin/pets", "app"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr == "pets: the page needs uvicorn: pip install 'pet-segmentation[app]'\n"
