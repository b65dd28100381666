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

    def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    installed = run("pip", "install", "--constraint", ROOT / "requirements.lock", source)
    if any(text in installed.stderr for text in UNREACHABLE):
        pytest.skip("the package index is out of reach")
    assert installed.returncode == 0, installed.stderr
    megabytes = sum(file.stat().st_size for file in environment.rglob("*")) / 1e6
    assert megabytes < 250
    photograph().save(tmp_path / "pet.png")
    outputs = json.loads(run("pets", "predict", "pet.png").stdout)["outputs"]
    assert all((tmp_path / file).exists() for file in outputs.values())
    program = (
        "from pets import Segmenter; print(Segmenter('conv_deconv').segment('pet.png').mask.shape)"
    )
    assert run("python", "-c", program).stdout == "(60, 90)\n"
    ran = run("pets", "app")
    assert ran.returncode == 1
    assert ran.stderr == "pets: the page needs uvicorn: pip install 'pet-segmentation[app]'\n"
