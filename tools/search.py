"""Search parameters on one machine or a Ray cluster: `make search SPACE=searches/unet.yaml`.

A trial is a DVC experiment in a clone of the pushed commit; successive halving (ASHA) stops the
worse ones early. The same command goes on with a search that was interrupted (docs/scale.md).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import mlflow
import numpy as np
import pandas as pd
import platformdirs
import ray
import yaml
from dvc.repo import Repo
from dvc.utils.flatten import flatten
from omegaconf import OmegaConf
from pydantic import BaseModel, Field, ValidationError
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from recipes.__main__ import overrides
from stages.params import PARAMS_FILE, check_params
from stages.runs.tracking import open_experiment, tolerate
from stages.stage import ROOT, StageError, run_stage
from tools.worker import output

# Beside the network's own group: what changes neither the schedule nor the validation's images.
SEARCHABLE = ["seed", "weight_decay", "ema_momentum", "augmentation", "loss"]
DISTRIBUTIONS = (".choice", ".uniform", ".loguniform")
# When the other end of its standard input closes, for instance because that process was killed,
# the process group is terminated, and what is left of it removed after ten seconds.
TRIAL = r"""exec 3<&0 </dev/null
(trap '' TERM; cat <&3; kill -TERM 0; sleep 10; rm -rf "$PWD"; kill -KILL 0) &
git clone --quiet --no-checkout "$URL" clone && cd clone &&
git checkout --quiet --detach "$COMMIT" &&
printf '[cache]\ndir = %s\n' "$CACHE" > .dvc/config.local &&
dvc exp run --temp --pull --allow-missing --name "$0" "$@" "evaluate@$NETWORK" &&
ref=$(git for-each-ref --format='%(refname)' "refs/exps/*/*/$0") &&
git show "$ref:metrics/$NETWORK.history.csv" > ../all && mv ../all ../history.csv &&
until test -e ../go; do sleep 0.2; done &&
python -c "$PUSH" "$0" && dvc exp push --force --run-cache origin "$0"
"""
# The files that Git has, without which DVC restores no training, and which `dvc push` leaves out.
PUSH = """import sys; from dvc.repo import Repo
with Repo(rev=sys.argv[1]) as repo:
    files = [out.hash_info for out in repo.index.outs if not out.use_cache and out.hash_info]
    repo.cloud.push([file for file in files if repo.cache.local.exists(file.value)])"""
OFF = ["RAY_USAGE_STATS_ENABLED", "RAY_AIR_NEW_OUTPUT", "TUNE_PRINT_ALL_TRIAL_ERRORS"]
# No log files of Tune's own; and a trial that fails before its first epoch has no metric.
ON = ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_STRICT_METRIC_CHECKING"]


class Search(BaseModel, strict=True, extra="forbid"):
    """The group `search` of a space."""

    network: str
    trials: int = Field(ge=1, le=10_000)
    seed: int = Field(ge=0)  # of the draws
    metric: Literal["val_mean_iou", "val_accuracy"]
    grace_epochs: int = Field(ge=1)
    reduction_factor: int = Field(ge=2)
    cpus: int = Field(ge=0)  # of a node, for a trial
    gpus: int = Field(ge=0)


class _Trial(tune.Trainable):
    """A trial on a node; a step is an epoch, the last when all is pushed, or has an `error`."""

    def setup(self, config: dict[str, Any]) -> None:
        self.rows = self._rows(**config["trial"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()  # and on, in a process that has all imported
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return next(self.rows)

    def cleanup(self) -> None:
        self.rows.close()  # ends the processes and removes the clone

    def _rows(self, name: str, epochs: int, changes: list, environment: dict) -> Generator[dict]:
        home = platformdirs.user_cache_path("pet-segmentation", ensure_exists=True)
        log, folder = home / f"{name}.log", tempfile.mkdtemp(prefix=f"{name}-", dir=home)
        reported, rows = 0, list[dict]()
        epoch_log, history, go = (Path(folder, name) for name in ("epochs", "history.csv", "go"))
        epoch_log.touch()
        environment = {**os.environ, **environment, "EPOCH_LOG": str(epoch_log), "PUSH": PUSH}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment.pop("OMP_NUM_THREADS", None)  # Ray sets it
        if not Path(environment["CACHE"]).is_dir():  # on another machine than the driver
            environment["CACHE"] = str(home / "dvc")
        with log.open("w") as out, subprocess.Popen(
            ["sh", "-c", TRIAL, name, *(f"--set-param={change}" for change in changes)],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out,
            start_new_session=True,
        ) as process:  # fmt: skip
            while process.poll() is None:
                time.sleep(0.5)
                rows = [json.loads(line) for line in epoch_log.read_text().splitlines()]
                if ended := history.exists():  # with all rows, if DVC had the training already
                    rows = pd.read_csv(history).to_dict("records")
                yield from rows[reported : epochs - 1]
                reported = min(len(rows), epochs - 1)
                if ended:
                    go.touch()
        if process.returncode:
            lines = log.read_text(errors="replace").splitlines()
            said = [line for line in lines if line and "failed to reproduce" not in line]
            error = f"{said[-1]}; see {log} on {os.uname().nodename}"
            yield {**dict(*rows[-1:]), "done": True, "error": error}
        yield min(rows, key=lambda row: row["val_loss"]) | {"epoch": epochs, "done": True}


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


def load_space(path: Path) -> tuple[Search, int, list[dict[str, Any]], list[str]]:
    """Read a space and draw its trials; StageError for a value that is not allowed.

    Returns the group `search`, the epochs of a trial, the values of each by dotted keys, and the
    keys of those that are drawn.
    """
    try:
        space = yaml.safe_load(path.read_text(encoding="utf-8"))
        search = Search.model_validate(space.pop("search", {}))
    except (yaml.YAMLError, ValidationError, AttributeError) as error:
        raise StageError(f"{path}: {' '.join(str(error).split())}") from error
    values = flatten(space) | {"networks": [search.network]}
    random = np.random.RandomState(search.seed)
    ranges = {key: values.pop(key) for key in list(values) if key.endswith(DISTRIBUTIONS)}
    for key in ranges:
        if key.split(".")[0] not in [*SEARCHABLE, search.network]:
            raise StageError(f"{path}: {key}: trials are compared by epoch: give it one value")
    names, trials = [key.rpartition(".")[0] for key in ranges], []
    for _ in range(search.trials):
        drawn = [_draw(path, key, of, random) for key, of in ranges.items()]
        trials.append(values | dict(zip(names, drawn, strict=True)))
        changed = OmegaConf.load(PARAMS_FILE)
        for key, value in trials[-1].items():
            OmegaConf.update(changed, key, value, force_add=True)
        params = check_params(OmegaConf.to_container(changed), str(path))
    return search, params.epochs, trials, names


def _draw(path: Path, key: str, of: Any, random: np.random.RandomState) -> Any:
    try:
        domain = getattr(tune, key.rpartition(".")[2])(*([of] if key.endswith("choice") else of))
        value = domain.sample(random_state=random)
    except Exception as error:  # whatever NumPy and Tune raise
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


def _tuner(name: str, search: Search, epochs: int, trials: list[dict]) -> tune.Tuner:
    """The search as Tune runs it, with what an earlier driver has saved of it."""
    folder = ROOT / ".dvc" / "tmp" / "search"
    trainable = tune.with_resources(_Trial, {"cpu": search.cpus, "gpu": search.gpus})
    if tune.Tuner.can_restore(folder / name):
        return tune.Tuner.restore(str(folder / name), trainable)
    grace = min(search.grace_epochs, epochs)
    scheduler = ASHAScheduler("epoch", search.metric, "max", epochs, grace, search.reduction_factor)
    run_config = tune.RunConfig(
        name=name, storage_path=str(folder), callbacks=[_Progress(scheduler)], verbose=0,
        failure_config=tune.FailureConfig(max_failures=3),  # lost nodes
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )  # fmt: skip
    return tune.Tuner(
        trainable, param_space={"trial": tune.grid_search(trials)}, run_config=run_config,
        tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=True),
    )  # fmt: skip


def main() -> None:
    """Run the search of the space that the command line names, and print its table."""
    path = Path(sys.argv[1])
    search, epochs, trials, drawn = load_space(path)
    commit, remote = pushed_commit()
    name = f"{path.stem}-{commit[:7]}"
    tolerate(open_experiment)  # made here, the trials find it
    environment = {
        "COMMIT": commit, "URL": output("git", "remote", "get-url", remote),
        "NETWORK": search.network, "CACHE": Repo().cache.local_cache_dir,
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "MLFLOW_RUN_CONTEXT": json.dumps({"search": name}),  # tags
    }  # fmt: skip
    table = pd.DataFrame(trials, [f"{name}-{number:02}" for number in range(1, len(trials) + 1)])
    configs = [
        {"name": trial, "epochs": epochs, "changes": overrides(values), "environment": environment}
        for trial, values in zip(table.index, trials, strict=True)
    ]
    os.environ |= dict.fromkeys(OFF, "0") | dict.fromkeys(ON, "1")
    ray.init(log_to_driver=False, logging_level="CRITICAL")
    table = table[drawn].assign(**{search.metric: None}, epochs=0, state="unfinished")
    for result in _tuner(name, search, epochs, configs).fit():
        if metrics := result.config and result.metrics:
            trial, columns = result.config["trial"]["name"], [search.metric, "epochs", "state"]
            ended = metrics.get(search.metric), metrics.get("epoch", 0), _state(metrics)
            table.loc[trial, columns] = ended
    print(table.to_markdown(floatfmt=".4g"))
    if "finished" in table.state.values:
        best = table[table.state == "finished"][search.metric].astype(float).idxmax()
        subprocess.run(["dvc", "exp", "pull", remote, best], check=False)
        print(f"The best is {best}: `dvc exp apply {best}`")
    if wrong := table.index[~table.state.isin(["finished", "stopped"])].to_list():
        raise StageError(f"{', '.join(wrong)}: failed, or unfinished; `make search` goes on")


if __name__ == "__main__":
    run_stage("search", main)
