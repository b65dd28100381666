"""Search parameters on one machine or a Ray cluster: `make search SPACE=searches/unet.yaml`.

A trial is a DVC experiment in a clone of the pushed commit; successive halving (ASHA) stops the
worse ones early. The same command goes on with a search that was interrupted (docs/scale.md).
"""

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
from stages.params import PARAMS_FILE, check_params, flat
from stages.runs.tracking import _tolerate, open_experiment
from stages.stage import ROOT, StageError, run_stage

# Beside the network's own group: what changes neither the schedule nor the validation's images.
SEARCHABLE = ["seed", "weight_decay", "ema_momentum", "augmentation", "loss"]
DISTRIBUTIONS = ["choice", "uniform", "loguniform"]
# When the other end of its standard input closes, for instance because that process was killed,
# the process group is interrupted, and what is left of it killed after ten seconds.
GROUP = """exec 3<&0
(trap '' INT; cat <&3; kill -INT 0; timeout --foreground 10 tail --pid=$$ -f; kill -KILL 0) &
exec "$@" </dev/null 3<&-"""
OFF = ["RAY_USAGE_STATS_ENABLED", "RAY_AIR_NEW_OUTPUT", "TUNE_PRINT_ALL_TRIAL_ERRORS"]
# No logs of Tune's own; and a trial that fails before its first epoch has no metric.
ON = ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_STRICT_METRIC_CHECKING"]


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


class _Trial(tune.Trainable):
    """A trial on a node; a step is an epoch, the last one when all is pushed."""

    def setup(self, config: dict[str, Any]) -> None:
        self.row: dict[str, Any] = {}
        self.rows = self._rows(**config["trial"])

    def step(self) -> dict[str, Any]:
        try:
            self.row = next(self.rows)
        except (OSError, RuntimeError) as error:
            self.row |= {"done": True, "error": f"{os.uname().nodename}: {error}"}
        return self.row

    def cleanup(self) -> None:
        self.rows.close()  # ends the processes and removes the clone

    def _rows(
        self, name: str, changes: list[str], commit: str, url: str, network: str, epochs: int,
        cache: str, environment: dict[str, str],
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """Run the trial and yield the rows of its history."""
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
            lines = self.log.read_text(errors="replace").splitlines()
            said = [line for line in lines if line and "failed to reproduce" not in line]
            raise RuntimeError(f"`{' '.join(command[:3])}` failed, see {self.log}: {said[-1]}")


class _Progress(tune.Callback):
    """Prints how trials end, and has Tune save the scheduler's comparisons, too."""

    def __init__(self, scheduler: ASHAScheduler) -> None:
        self.scheduler = scheduler

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        error = trial.last_result.get("error", "")
        print(trial.config["trial"]["name"], _state(trial.last_result), error, flush=True)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        print(trial.config["trial"]["name"], "is lost with its node and starts again", flush=True)

    def get_state(self) -> dict[str, Any]:
        return vars(self.scheduler)

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self.scheduler).update(state)


def _state(result: dict[str, Any]) -> str:
    if "error" in result or not result.get("done"):
        return "failed" if "error" in result else "unfinished"
    return "finished" if result["epoch"] == result["config"]["trial"]["epochs"] else "stopped"


def load_space(path: Path) -> tuple[Search, int, list[dict[str, Any]], list[dict[str, Any]]]:
    """Read a space and draw its trials; StageError for a value that is not allowed.

    Returns the group `search`, the epochs of a trial, and for each trial the values by dotted keys:
    those that the space fixes or draws, and the drawn ones alone.
    """
    try:
        space = yaml.safe_load(path.read_text(encoding="utf-8"))
        search = Search.model_validate(space.pop("search", {}))
    except (yaml.YAMLError, ValidationError) as error:
        raise StageError(f"{path}: {' '.join(str(error).split())}") from error
    values, random = flat(space), np.random.RandomState(search.seed)
    values["networks"] = [search.network]
    ranges = [key for key in values if key.rpartition(".")[2] in DISTRIBUTIONS]
    for key in ranges:
        if key.split(".")[0] not in [*SEARCHABLE, search.network]:
            raise StageError(f"{path}: {key}: trials are compared by epoch: give it one value")
    ranges = {key: values.pop(key) for key in ranges}
    draws = [_draw(path, ranges, random) for _ in range(search.trials)]
    for drawn in draws:
        changed = OmegaConf.load(PARAMS_FILE)
        for key, value in (values | drawn).items():
            OmegaConf.update(changed, key, value, force_add=True)
        params = check_params(OmegaConf.to_container(changed), str(path))
    if search.grace_epochs >= params.epochs:
        raise StageError(f"{path}: search.grace_epochs: must be less than epochs")
    return search, params.epochs, [values | drawn for drawn in draws], draws


def _draw(path: Path, ranges: dict[str, Any], random: np.random.RandomState) -> dict[str, Any]:
    drawn = {}
    for key, of in ranges.items():
        name, _, kind = key.rpartition(".")
        try:
            domain = tune.choice(of) if kind == "choice" else getattr(tune, kind)(*of)
            value = domain.sample(random_state=random)
        except Exception as error:  # types, order, signs: whatever NumPy and Tune raise
            raise StageError(f"{path}: {key}: {of}: {error}") from error
        drawn[name] = float(f"{value:.3g}") if isinstance(value, float) else value
    return drawn


def pushed_commit() -> tuple[str, str]:
    """The commit of the workspace and the Git remote that has it, or StageError."""
    if changed := _output("git", "status", "--porcelain"):
        raise StageError(f"{changed.split()[1]}: not committed; trials run on what is pushed")
    upstream = _output("git", "rev-parse", "--abbrev-ref", "@{upstream}")
    if not upstream or _output("git", "rev-list", "@{upstream}..HEAD"):
        raise StageError("the commit is not pushed, and trials clone it: `git push`")
    if not Repo().config.read("repo").get("core", {}).get("remote"):
        raise StageError("DVC has no remote: `dvc remote add -d storage PATH_OR_URL`; commit it")
    return _output("git", "rev-parse", "HEAD"), upstream.partition("/")[0]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _results(name: str, search: Search, epochs: int, trials: list[dict]) -> tune.ResultGrid:
    """Run the trials, or go on with what an earlier driver has saved, until all have ended."""
    os.environ |= dict.fromkeys(OFF, "0") | dict.fromkeys(ON, "1")
    ray.init(log_to_driver=False, logging_level="ERROR")
    folder = ROOT / ".dvc" / "tmp" / "search"
    trainable = tune.with_resources(_Trial, {"cpu": search.cpus, "gpu": search.gpus})
    if tune.Tuner.can_restore(folder / name):
        return tune.Tuner.restore(str(folder / name), trainable).fit()
    scheduler = ASHAScheduler(
        "epoch", search.metric, "max", epochs, search.grace_epochs, search.reduction_factor
    )
    run_config = tune.RunConfig(
        name=name, storage_path=str(folder), callbacks=[_Progress(scheduler)], verbose=0,
        failure_config=tune.FailureConfig(max_failures=3),  # lost nodes
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )  # fmt: skip
    tune_config = tune.TuneConfig(scheduler=scheduler)
    space = {"trial": tune.grid_search(trials)}
    return tune.Tuner(
        trainable, param_space=space, tune_config=tune_config, run_config=run_config
    ).fit()


def _end_runs(name: str) -> None:
    """Mark the MLflow runs of what was killed, and could not do so itself, as stopped."""
    query = f"tags.search = '{name}' and attributes.status = 'RUNNING'"
    for run in mlflow.MlflowClient().search_runs([open_experiment()], query):
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def main() -> None:
    """Run the search of the space that the command line names, and print its table."""
    path = Path(sys.argv[1])
    search, epochs, trials, draws = load_space(path)
    commit, remote = pushed_commit()
    name = f"{path.stem}-{commit[:7]}"
    _tolerate(open_experiment)  # made here, the trials find it
    environment = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    environment["MLFLOW_RUN_CONTEXT"] = json.dumps({"search": name})  # tags
    common = {
        "commit": commit, "url": _output("git", "remote", "get-url", remote), "epochs": epochs,
        "network": search.network, "cache": Repo().cache.local.path, "environment": environment,
    }  # fmt: skip
    table = pd.DataFrame(draws, [f"{name}-{number:02}" for number in range(1, search.trials + 1)])
    changes = [[f"--set-param={change}" for change in overrides(values)] for values in trials]
    configs = [
        {"name": n, "changes": c, **common} for n, c in zip(table.index, changes, strict=True)
    ]
    results = _results(name, search, epochs, configs)
    ray.shutdown()
    _tolerate(partial(_end_runs, name))
    for result in results:
        if result.config:
            trial = result.config["trial"]["name"]
            table.loc[trial, search.metric] = result.metrics.get(search.metric)
            table.loc[trial, "epochs"] = result.metrics.get("epoch", 0)
            table.loc[trial, "state"] = _state(result.metrics)
    print(table.to_markdown(floatfmt=".4g"))
    finished = table[table.state == "finished"]
    if len(finished):
        best = finished[search.metric].idxmax()
        subprocess.run(["dvc", "exp", "pull", remote, best], check=False)
        print(f"The best is {best}: `dvc exp apply {best}`")
    if wrong := table.index[~table.state.isin(["finished", "stopped"])].to_list():
        raise StageError(
            f"{', '.join(wrong)}: failed, or unfinished: `make search` goes on with it"
        )


if __name__ == "__main__":
    run_stage("search", main)
