"""What stands beside another: trainings that share a cache, and MLflow's pages beside a network."""

import contextlib
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path

import mlflow.cli
import pytest
import yaml
from dvc.repo import Repo

from stages.params import Params
from tests.faults import SmallNetwork
from tests.stage_process import Ended, end_of_stage

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clones(params: Params, records: Path, tmp_path: Path) -> list[Path]:
    """Three with one cache and the stage `train` of one network."""
    first = tmp_path / "first"
    for folder in ("stages", "data/synthetic_pets"):
        shutil.copytree(ROOT / folder, first / folder, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(records, first / "data" / "records")
    shutil.copy(ROOT / ".dvcignore", first)
    values = params.model_copy(update={"networks": ["conv_deconv"], "epochs": 1}).model_dump()
    (first / "params.yaml").write_text(yaml.safe_dump(values))
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    (first / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    Repo.init(str(first), no_scm=True).close()
    (first / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = True\n[cache]\n    dir = {tmp_path / 'cache'}\n"
    )
    return [first, *(shutil.copytree(first, tmp_path / name) for name in ("second", "third"))]


def test_two_trainings_of_one_configuration_in_two_clones_share_a_cache(
    clones: list[Path], processes: ForkServerContext, tmp_path: Path
) -> None:
    """Both train at once, each to its end; a third clone takes what they have left in the cache."""

    def train(clone: Path) -> Ended:
        return end_of_stage(processes, clone, "train", "conv_deconv", fault=SmallNetwork())

    with ThreadPoolExecutor() as pool:
        for ended in pool.map(train, clones[:2]):
            assert ended.code == 0, ended.errors
            assert "conv_deconv: best of 1 epochs" in ended.out
    for clone in clones[:2]:
        with contextlib.chdir(clone), Repo() as repo:
            repo.commit(force=True)
    with contextlib.chdir(clones[2]), Repo() as repo:
        assert repo.reproduce()  # would train another network than the fault's
    for file in ("models/conv_deconv.keras", "metrics/conv_deconv.history.csv", "dvc.lock"):
        contents = [(clone / file).read_bytes() for clone in clones]
        assert contents == [contents[0]] * 3, file
    assert not list(tmp_path.glob("*/.dvc/tmp/training/*"))


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_mlflows_pages_are_for_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow understands the command of `make ui`."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make = ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "ui"]
    for arguments, host in (([], "127.0.0.1"), (["HOST=0.0.0.0"], "0.0.0.0")):
        shown = subprocess.check_output([*make, *arguments], cwd=ROOT, text=True)
        shown = shown.replace("\\\n", " ")  # the shell continues the line
        words = shlex.split(shown.partition("exec mlflow server")[2])
        context = mlflow.cli.server.make_context("mlflow server", words)
        assert context.params["host"] == host
        assert context.params["port"] == 5000
