"""What DVC and MLflow are relied on for: one pipeline at a time, a full cache, pages for one."""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stages.params import Params

ROOT = Path(__file__).resolve().parents[1]
WAIT = 600  # seconds, for what takes few on an idle machine


def _dvc(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Starts DVC in a group of its own, which is killed as a whole."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("DVC_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, _ = process.communicate(timeout=WAIT)
    return process.returncode, out


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A stage that writes half of its output and waits while there is a file `wait`."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    (folder / "stage.py").write_text(
        "import pathlib, time\n"
        "size = int(pathlib.Path('size').read_text())\n"
        "with open('out', 'wb') as out:\n"
        "    out.write(bytes(size // 2))\n"
        "    out.flush()\n"
        "    while pathlib.Path('wait').exists(): time.sleep(0.05)\n"
        "    out.write(bytes(size - size // 2))\n"
    )
    stage = {"cmd": f"{sys.executable} stage.py", "deps": ["size"], "outs": ["out"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"write": stage}}))
    (folder / "size").write_text("1000")
    assert _ended(_dvc(folder, "init", "--no-scm", "--quiet"))[0] == 0
    return folder


def test_two_repros_in_one_workspace_and_one_that_is_killed(workspace: Path) -> None:
    (workspace / "wait").touch()
    first = _dvc(workspace, "repro")
    deadline = time.monotonic() + WAIT
    while not (workspace / "out").exists():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    code, said = _ended(_dvc(workspace, "repro"))
    assert code == 255
    assert "is busy, it is being blocked by" in said
    assert f"(PID {first.pid})" in said
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (workspace / "wait").unlink()
    assert not (workspace / "dvc.lock").exists()  # half an output is none
    code, said = _ended(_dvc(workspace, "repro"))
    assert code == 0, said
    assert (workspace / "out").stat().st_size == 1000


# Trains once the training in the other clone has begun too.
TOGETHER = """\
import pathlib, time
from stages import train
from stages.errors import run_stage
from tests.faults import SmallNetwork
SmallNetwork()()
here = pathlib.Path.cwd()
here.with_suffix(".begun").touch()
while len(list(here.parent.glob("*.begun"))) < 2: time.sleep(0.05)
run_stage("train", train.main)
"""
NETWORK, HISTORY = "models/conv_deconv.keras", "metrics/conv_deconv.history.csv"


@pytest.fixture
def clones(params: Params, records: Path, tmp_path: Path) -> list[Path]:
    """Three with one cache, in which the stage `train` trains a small network."""
    first = tmp_path / "first"
    shutil.copytree(ROOT / "stages", first / "stages", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(records, first / "data" / "records")
    shutil.copy(ROOT / ".dvcignore", first)
    values = params.model_copy(update={"networks": ["conv_deconv"]}).model_dump()
    (first / "params.yaml").write_text(yaml.safe_dump(values))
    (first / "together.py").write_text(TOGETHER)
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]
    stage["cmd"] = f"{sys.executable} together.py ${{item.network}}"
    (first / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    assert _ended(_dvc(first, "init", "--no-scm", "--quiet"))[0] == 0
    assert _ended(_dvc(first, "config", "cache.dir", str(tmp_path / "cache")))[0] == 0
    return [first, *(shutil.copytree(first, tmp_path / name) for name in ("second", "third"))]


def test_two_trainings_of_one_configuration_in_two_clones_share_a_cache(
    clones: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both train at once, each to its end; a third clone takes what they have left in the cache."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    running = [_dvc(clone, "repro") for clone in clones[:2]]
    try:
        for process in running:
            code, said = _ended(process)
            assert code == 0, said
            assert "conv_deconv: best of 2 epochs" in said
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    code, said = _ended(_dvc(clones[2], "repro"))
    assert code == 0, said
    assert "is cached - skipping run, checking out outputs" in said
    for file in (NETWORK, HISTORY, "dvc.lock"):
        first, second, third = ((clone / file).read_bytes() for clone in clones)
        assert first == second == third, file
    stored = [path for path in (tmp_path / "cache" / "files").rglob("*") if path.is_file()]
    assert stored
    for path in stored:  # each has the name of its content
        assert path.parent.name + path.stem == hashlib.md5(path.read_bytes()).hexdigest()
    assert not list(tmp_path.glob("*/.dvc/tmp/training/*"))


def test_a_full_cache_keeps_the_results_before_and_goes_on_with_room(workspace: Path) -> None:
    cache = workspace / ".dvc" / "cache"
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(cache)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        assert _ended(_dvc(workspace, "repro"))[0] == 0
        before = (workspace / "dvc.lock").read_bytes()
        (workspace / "size").write_text("1000000")
        code, said = _ended(_dvc(workspace, "repro"))
        assert code == 255
        assert "No space left on device" in said
        assert (workspace / "dvc.lock").read_bytes() == before
        # What the stage has made is whole, and need not be made again.
        assert (workspace / "out").stat().st_size == 1_000_000
        subprocess.run(["mount", "-o", "remount,size=4m", str(cache)], check=True)
        code, said = _ended(_dvc(workspace, "commit", "--force", "write"))
        assert code == 0, said
        code, said = _ended(_dvc(workspace, "repro"))
        assert code == 0, said
        assert "didn't change, skipping" in said
        (workspace / "size").write_text("1000")
        code, said = _ended(_dvc(workspace, "repro"))
        assert code == 0, said
        assert (workspace / "out").stat().st_size == 1000
    finally:
        subprocess.run(["umount", "--lazy", str(cache)], check=True)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux' table of sockets")
@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_mlflows_pages_are_for_this_machine_alone(tmp_path: Path) -> None:
    """The command of `make ui`; every socket that listens on its port does so on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "MLFLOW_WORKERS": "1"}
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
        while not (found := _listening(port)):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert found == {"0100007F"}  # 127.0.0.1
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _listening(port: int) -> set[str]:
    """The addresses, in the kernel's hexadecimal, that a port is listened to on."""
    tables = (Path(f"/proc/net/{name}") for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables if table.exists() for line in table.open()]
    return {
        row[1].split(":")[0]
        for row in rows
        if re.fullmatch(rf"[0-9A-F]+:{port:04X}", row[1]) and row[3] == "0A"
    }
