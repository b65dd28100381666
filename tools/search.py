"""Search parameters on one machine or a Ray cluster: `make search SPACE=searches/unet.yaml`.

A trial is a DVC experiment in a clone of the pushed commit; successive halving (ASHA) stops the
worse ones early. The same command goes on with a search that was interrupted (docs/scale.md).
"""

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlflow
import numpy as np
import pandas as pd
import platformdirs
import ray
import yaml
from dvc.repo import Repo
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from recipes.__main__ import overrides
from stages.params import PARAMS_FILE, Params, check_params, flat
from stages.runs.tracking import _tolerate, open_experiment
from stages.stage import ROOT, StageError, run_stage

# Beside the network's own group: what changes neither the schedule nor the validation's images.
SEARCHABLE = ["seed", "weight_decay", "ema_momentum", "augmentation", "loss"]
DISTRIBUTIONS = ("choice", "uniform", "loguniform")
# When the other end of its standard input closes, for instance because that process was killed,
# the process group is interrupted, and what is left of it killed after ten seconds.
GROUP = """exec 3<&0
(trap '' INT; cat <&3; kill -INT 0; timeout --foreground 10 tail --pid=$$ -f; kill -KILL 0) &
exec "$@" </dev/null 3<&-"""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails at once has no metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class Search(BaseModel):
    """The group `search` of a space."""

    model_config = ConfigDict(strict=True, extra="forbid")

    network: str
    trials: int = Field(ge=1, le=10_000)
    seed: int = Field(ge=0)  # of the draws
    metric: Literal["val_mean_iou", "val_accuracy"]
    grace_epochs: int = Field(ge=1)
    reduction_factor: int = Field(ge=2)
    cpus: int = Field(ge=0)  # of a node, for a trial
    gpus: int = Field(ge=0)


class Trial(tune.Trainable):
    """A trial on a node; a step is an epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the configuration that `start` made."""
        self.row: dict[str, Any] = {}
        self.rows = self._rows(**config["trial"])

    def step(self) -> dict[str, Any]:
        """The next row of the history, the last when all is pushed; or an `error`."""
        try:
            self.row = next(self.rows)
        except (OSError, RuntimeError) as error:
            self.row |= {"done": True, "error": f"{os.uname().nodename}: {error}"}
        return self.row

    def cleanup(self) -> None:
        """End the trial's processes and remove its clone."""
        self.rows.close()

    def _rows(
        self, name: str, changes: list[str], commit: str, url: str, network: str, epochs: int,
        cache: str, environment: dict[str, str],
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        home = platformdirs.user_cache_path("pet-segmentation", ensure_exists=True)
        self.log = home / f"{name}.log"
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=home) as folder:
            epoch_log, self.folder, reported = Path(folder, "epochs"), Path(folder), 0
            self.environment = {**os.environ, **environment, "EPOCH_LOG": str(epoch_log)}
            self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            self.environment.pop("OMP_NUM_THREADS", None)  # Ray sets it
            self._run("git", "clone", "--quiet", "--no-checkout", url, "clone")
            self.folder /= "clone"
            self._run("git", "checkout", "--quiet", "--detach", commit)
            cache = cache if Path(cache).is_dir() else f"{home}/dvc"
            (self.folder / ".dvc" / "config.local").write_text(f"[cache]\ndir = {cache}\n")
            options = ["--temp", "--pull", "--allow-missing", "--name", name, *changes]
            with self._group("dvc", "exp", "run", *options, f"evaluate@{network}") as process:
                while process.poll() is None:
                    time.sleep(0.5)
                    lines = epoch_log.read_text().splitlines() if epoch_log.exists() else []
                    for line in lines[reported : epochs - 1]:
                        reported += 1
                        yield json.loads(line)
            history = f"refs/exps/{commit[:2]}/{commit[2:]}/{name}:metrics/{network}.history.csv"
            table = subprocess.check_output(["git", "show", history], cwd=self.folder, text=True)
            rows = pd.read_csv(io.StringIO(table)).to_dict("records")
            yield from rows[reported:-1]  # all of them, where DVC had the training already
            self._run("dvc", "exp", "push", "--force", "--run-cache", "origin", name)
            # The metrics of the network that was kept.
            yield min(rows, key=lambda row: row["val_loss"]) | {"epoch": epochs, "done": True}

    def _run(self, *command: str) -> None:
        with self._group(*command) as process:
            process.wait()

    @contextlib.contextmanager
    def _group(self, *command: str) -> Iterator[subprocess.Popen]:
        """A command whose process group ends with the block, or else with this process."""
        interruptible = partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, [signal.SIGINT])
        with (
            self.log.open("a") as log,
            subprocess.Popen(
                ["sh", "-c", GROUP, "sh", *command], cwd=self.folder, env=self.environment,
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=interruptible,  # noqa: PLW1509  Ray's processes are not
            ) as process,
        ):  # fmt: skip
            yield process
        if process.returncode:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"`{' '.join(command[:3])}` failed, see {self.log}: {said[-1]}")


class Progress(tune.Callback):
    """Prints how trials end, and has Tune save what it does not by itself: the comparisons."""

    def __init__(self, scheduler: ASHAScheduler) -> None:
        self.scheduler = scheduler

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Print what became of a trial."""
        print(": ".join([trial.config["trial"]["name"], *outcome(trial.last_result)]), flush=True)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Print which trial has lost its node."""
        print(f"{trial.config['trial']['name']}: lost with its node; starts again", flush=True)

    def get_state(self) -> dict[str, Any]:
        """What Tune saves with its trials."""
        return vars(self.scheduler)

    def set_state(self, state: dict[str, Any]) -> None:
        """Take what an earlier driver saved."""
        vars(self.scheduler).update(state)


def outcome(result: dict[str, Any]) -> list[str]:
    """What became of a trial, by its last result, and why."""
    if "error" in result:
        return ["failed", result["error"]]
    if not result.get("done"):
        return ["unfinished"]
    return ["finished" if result["epoch"] == result["config"]["trial"]["epochs"] else "stopped"]


def load_space(path: Path) -> tuple[Search, Params, list[dict[str, Any]], list[dict[str, Any]]]:
    """Read a space and draw its trials, or raise StageError.

    Returns the group `search`, the parameters of a trial, and for each trial the values by dotted
    keys: those that differ from params.yaml, and those of them that were drawn.
    """
    try:
        space = yaml.safe_load(path.read_text(encoding="utf-8"))
        search = Search.model_validate(space.pop("search", {}))
    except (yaml.YAMLError, ValidationError) as error:
        raise StageError(f"{path}: {' '.join(str(error).split())}") from error
    values, random = (
        flat(space) | {"networks": [search.network]},
        np.random.RandomState(search.seed),
    )
    ranges = {key: values.pop(key) for key in list(values) if key.endswith(DISTRIBUTIONS)}
    for key in ranges:
        if key.split(".")[0] not in [*SEARCHABLE, search.network]:
            raise StageError(
                f"{path}: {key}: trials are compared epoch by epoch: give it one value"
            )
    trials, draws = [], []
    for _ in range(search.trials):
        draws.append(
            {key.rpartition(".")[0]: draw(path, key, of, random) for key, of in ranges.items()}
        )
        trials.append(values | draws[-1])
        changed = OmegaConf.load(PARAMS_FILE)
        for key, value in trials[-1].items():
            OmegaConf.update(changed, key, value, force_add=True)
        params = check_params(OmegaConf.to_container(changed), str(path))
    if search.grace_epochs >= params.epochs:
        raise StageError(f"{path}: search.grace_epochs: must be less than epochs")
    return search, params, trials, draws


def draw(path: Path, key: str, of: Any, random: np.random.RandomState) -> Any:
    """Draw from the distribution at the end of a key."""
    kind = key.rpartition(".")[2]
    try:
        domain = tune.choice(of) if kind == "choice" else getattr(tune, kind)(*of)
        value = domain.sample(random_state=random)
    except Exception as error:
        raise StageError(f"{path}: {key}: {of}: {error}") from error
    return float(f"{value:.3g}") if isinstance(value, float) else value


def pushed_commit() -> tuple[str, str]:
    """The commit of the workspace and the Git remote that has it, or StageError."""
    if changed := output("git", "status", "--porcelain"):
        raise StageError(f"{changed.split()[1]}: not committed; trials run on what is pushed")
    upstream = output("git", "rev-parse", "--abbrev-ref", "@{upstream}")
    if not upstream or output("git", "rev-list", "@{upstream}..HEAD"):
        raise StageError("the commit is not pushed, and trials clone it: `git push`")
    if not Repo().config.read("repo").get("core", {}).get("remote"):
        raise StageError("DVC has no remote: `dvc remote add -d storage PATH_OR_URL`; commit it")
    return output("git", "rev-parse", "HEAD"), upstream.partition("/")[0]


def output(*command: str) -> str:
    """What a command prints; empty where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def start(name: str, search: Search, epochs: int, trials: list[dict[str, Any]]) -> tune.ResultGrid:
    """Run the trials, or go on with what an earlier driver has saved, until all have ended."""
    folder = ROOT / ".dvc" / "tmp" / "search"
    trainable = tune.with_resources(Trial, {"cpu": search.cpus, "gpu": search.gpus})
    if tune.Tuner.can_restore(folder / name):
        return tune.Tuner.restore(str(folder / name), trainable).fit()
    scheduler = ASHAScheduler(
        "epoch", search.metric, "max", epochs, search.grace_epochs, search.reduction_factor
    )
    run_config = tune.RunConfig(
        name=name, storage_path=str(folder), callbacks=[Progress(scheduler)], verbose=0,
        failure_config=tune.FailureConfig(max_failures=3),  # lost nodes
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )  # fmt: skip
    config = tune.TuneConfig(scheduler=scheduler)
    space = {"trial": tune.grid_search(trials)}
    return tune.Tuner(trainable, param_space=space, tune_config=config, run_config=run_config).fit()


def end_runs(name: str) -> None:
    """Mark what was killed, and could not say so itself, as stopped in MLflow."""
    query = f"tags.search = '{name}' and attributes.status = 'RUNNING'"
    for run in mlflow.MlflowClient().search_runs([open_experiment()], query):
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def main() -> None:
    """Run the search that the command line names, or go on with it, and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tools.search", description=__doc__)
    parser.add_argument("space", type=Path, help="a file such as searches/unet.yaml")
    path = parser.parse_args().space
    search, params, trials, draws = load_space(path)
    commit, remote = pushed_commit()
    name = f"{path.stem}-{commit[:7]}"
    names = [f"{name}-{number:02}" for number in range(1, search.trials + 1)]
    _tolerate(open_experiment)  # which the trials find then
    tags = {"search": name}
    common = {
        "commit": commit, "url": output("git", "remote", "get-url", remote),
        "network": search.network, "epochs": params.epochs, "cache": Repo().cache.local.path,
        "environment": {
            "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "MLFLOW_RUN_CONTEXT": json.dumps(tags),
        },
    }  # fmt: skip
    changes = [[f"--set-param={change}" for change in overrides(values)] for values in trials]
    configs = [
        {"name": name, "changes": c, **common} for name, c in zip(names, changes, strict=True)
    ]
    os.environ |= QUIET
    ray.init(log_to_driver=False, logging_level="ERROR")
    results = start(name, search, params.epochs, configs)
    ray.shutdown()
    _tolerate(partial(end_runs, name))
    ended = {result.config["trial"]["name"]: result.metrics for result in results if result.config}
    last = [ended.get(name, {}) for name in names]
    table = pd.DataFrame(draws, index=pd.Index(names, name="trial")).assign(
        **{search.metric: [row.get(search.metric) for row in last]},
        epochs=[row.get("epoch", 0) for row in last],
        state=[outcome(row)[0] for row in last],
    )
    print(table.to_markdown(floatfmt=".4g"))
    finished = table[table.state == "finished"]
    if len(finished):
        best = finished[search.metric].idxmax()
        subprocess.run(["dvc", "exp", "pull", remote, best], check=False)
        print(f"The best is {best}: `dvc exp apply {best}`")
    if wrong := table.index[table.state.isin(["failed", "unfinished"])].to_list():
        raise StageError(f"not finished: {', '.join(wrong)}; ...")


if __name__ == "__main__":
    run_stage("search", main)
