"""A repository to search in: a pipeline without TensorFlow, and remotes of Git and DVC.

How good a training is grows with its learning rate; at 0.013 it fails. Beside the repository are
`trainings`, to which each adds its experiment and its process, and `hold`: all wait that are of
another experiment than it names.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from dvc.repo import Repo

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = """
stages:
  train:
    matrix: {network: "${networks}"}
    cmd: python training.py ${item.network}
    deps: [data/records]
    params: [epochs, "${item.network}"]
    outs: ["models/${item.network}.keras"]
    plots: ["metrics/${item.network}.history.csv": {cache: false}]
  evaluate:
    matrix: {network: "${networks}"}
    cmd: echo '{}' > metrics/${item.network}.summary.json
    deps: ["models/${item.network}.keras"]
    metrics: ["metrics/${item.network}.summary.json": {cache: false}]
"""
TRAINING = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML

network, beside = sys.argv[1], Path(BESIDE)
params = YAML(typ="safe").load(Path("params.yaml"))
rate = params[network]["learning_rate"]
Path("metrics").mkdir(exist_ok=True)
history = Path(f"metrics/{network}.history.csv")
history.write_text("epoch,val_loss,val_mean_iou\\n")
with (beside / "trainings").open("a") as file:
    file.write(f"{os.environ['DVC_EXP_NAME']} {os.getpid()}\\n")
while (beside / "hold").exists() and (beside / "hold").read_text() != os.environ["DVC_EXP_NAME"]:
    time.sleep(0.1)
for epoch in range(1, params["epochs"] + 1):
    if rate == 0.013:
        sys.exit("train: the loss is nan")
    row = {"epoch": epoch, "val_loss": 1 / epoch, "val_mean_iou": round(10 * rate * epoch, 4)}
    with history.open("a") as file:
        file.write(",".join(map(str, row.values())) + "\\n")
    with open(os.environ["EPOCH_LOG"], "a") as file:
        file.write(json.dumps(row) + "\\n")
Path(f"models/{network}.keras").write_text(str(rate))
"""


def environment(**values: str) -> dict[str, str]:
    """That of a user, with the console scripts of this environment on the path."""
    hidden = ("DVC_", "GIT_", "MLFLOW_", "RAY_", "TUNE_")
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(hidden)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    for who in ("AUTHOR", "COMMITTER"):
        kept |= {f"GIT_{who}_NAME": "Test", f"GIT_{who}_EMAIL": "test@localhost"}
    return kept | values


def run(folder: Path, *command: str, **values: str) -> str:
    """What a command prints that must succeed."""
    result = subprocess.run(
        command, cwd=folder, env=environment(**values), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def trainings(folder: Path) -> dict[str, list[int]]:
    """The processes that have trained, by experiment."""
    found: dict[str, list[int]] = {}
    if (folder / "trainings").exists():
        for line in (folder / "trainings").read_text().splitlines():
            name, pid = line.split()
            found.setdefault(name, []).append(int(pid))
    return found


def make_repository(folder: Path) -> Path:
    """A clone `laptop` with the project's code and this pipeline, pushed with its records."""
    laptop = folder / "laptop"
    run(folder, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    run(folder, "git", "clone", "--quiet", "origin.git", "laptop")
    for name in ("tools", "recipes", "stages", "params.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, laptop / name)
    (laptop / "dvc.yaml").write_text(PIPELINE)
    (laptop / "training.py").write_text(TRAINING.replace("BESIDE", repr(str(folder))))
    (laptop / ".gitignore").write_text("__pycache__/\n/mlflow.db*\n/mlartifacts/\n")
    (laptop / "models").mkdir()
    (laptop / "models" / ".gitignore").write_text("*.keras\n")
    (laptop / "data" / "records").mkdir(parents=True)
    (laptop / "data" / "records" / "a").write_text("records")
    with Repo.init(str(laptop)) as repo:
        repo.add(str(laptop / "data" / "records"))
        with repo.config.edit("repo") as config:
            config["core"] = {"remote": "storage"}
            config["remote"] = {"storage": {"url": str(folder / "storage")}}
        repo.push()
    push(laptop)
    shutil.rmtree(laptop / ".dvc" / "cache")  # as on another machine
    return laptop


def push(laptop: Path, **space: object) -> str:
    """Commit and push all there is, and a space of these values as searches/rates.yaml."""
    (laptop / "searches").mkdir(exist_ok=True)
    (laptop / "searches" / "rates.yaml").write_text(yaml.safe_dump(space))
    run(laptop, "git", "add", "--all")
    run(laptop, "git", "commit", "--quiet", "--allow-empty", "--message", "A space")
    run(laptop, "git", "push", "--quiet", "--set-upstream", "origin", "HEAD")
    return "rates-" + run(laptop, "git", "rev-parse", "--short=7", "HEAD").strip()
