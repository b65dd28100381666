"""What stands beside another: trainings that share a cache, and MLflow's pages beside a network."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import yaml
from dvc.repo import Repo

from stages.params import Params

ROOT = Path(__file__).resolve().parents[1]
WAIT = 300  # seconds, for what takes few on an idle machine
# Trains once the training in the other clone has begun too.
TOGETHER = """\
import pathlib, time
from stages.stage import run_stage
from stages.train.__main__ import main
from tests.faults import SmallNetwork
SmallNetwork()()
here = pathlib.Path.cwd()
here.with_suffix(".begun").touch()
while len(list(here.parent.glob("*.begun"))) < 2: time.sleep(0.05)
run_stage("train", main)
"""


def _repro(clone: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=clone,
        env={key: value for key, value in os.environ.items() if not key.startswith("DVC_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def clones(params: Params, records: Path, tmp_path: Path) -> list[Path]:
    """Three with one cache, in which the stage `train` trains a small network."""
    first = tmp_path / "first"
    for folder in ("stages", "data/synthetic_pets"):
        shutil.copytree(ROOT / folder, first / folder, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(records, first / "data" / "records")
    shutil.copy(ROOT / ".dvcignore", first)
    values = params.model_copy(update={"networks": ["conv_deconv"], "epochs": 1}).model_dump()
    (first / "params.yaml").write_text(yaml.safe_dump(values))
    (first / "together.py").write_text(TOGETHER)
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    stage["cmd"] = f"{sys.executable} together.py ${{item.network}}"
    (first / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    Repo.init(str(first), no_scm=True).close()
    (first / ".dvc" / "config").write_text(
        f"[core]\n    no_scm = True\n[cache]\n    dir = {tmp_path / 'cache'}\n"
    )
    return [first, *(shutil.copytree(first, tmp_path / name) for name in ("second", "third"))]


def test_two_trainings_of_one_configuration_in_two_clones_share_a_cache(
    clones: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both train at once, each to its end; a third clone takes what they have left in the cache."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running = [_repro(clone) for clone in clones[:2]]
    try:
        for process in running:
            said, _ = process.communicate(timeout=WAIT)
            assert process.returncode == 0, said
            assert "conv_deconv: best of 1 epochs" in said
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    third = _repro(clones[2])
    said, _ = third.communicate(timeout=WAIT)
    assert third.returncode == 0, said
    assert "is cached - skipping run, checking out outputs" in said
    for file in ("models/conv_deconv.keras", "metrics/conv_deconv.history.csv", "dvc.lock"):
        contents = [(clone / file).read_bytes() for clone in clones]
        assert contents == [contents[0]] * 3, file
    assert not list(tmp_path.glob("*/.dvc/tmp/training/*"))


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_mlflows_pages_are_for_this_machine_alone(empty_database: Path, tmp_path: Path) -> None:
    """The command of `make ui`; every socket that listens on its port does so on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_WORKERS": "1"}
    environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # Printed and not run, because the environment may be another than the one `make` would install.
    command = ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "ui", f"PORT={port}"]
    shown = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    server = subprocess.Popen(
        ["sh", "-c", shown],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + WAIT
        found: set[str] = set()
        while not found:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
            sockets = [each.laddr for each in psutil.net_connections("tcp") if not each.raddr]
            found = {address.ip for address in sockets if address.port == port}
        assert found == {"127.0.0.1"}
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
