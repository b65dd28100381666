"""Searches on a cluster of two nodes on this machine, with real remotes of Git and DVC."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from stages.stage import StageError
from tests.searched import ROOT, environment, make_repository, push, run, trainings
from tools.search import load_space, pushed_commit

SEARCH = {
    "network": "unet", "trials": 4, "seed": 3, "metric": "val_mean_iou", "grace_epochs": 1,
    "reduction_factor": 2, "cpus": 1, "gpus": 0,
}  # fmt: skip


def _until(happened: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def laptop(folder: Path) -> Path:
    """A clone of the repository to search in."""
    return make_repository(folder)


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    """Two nodes, each with a cache folder of its own, that notice each other's death soon."""
    soon = {"period_ms": "1000", "timeout_ms": "1000", "failure_threshold": "5"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in soon.items():
            patch.setenv(f"RAY_health_check_{name}", value)
        for name, value in environment(RAY_USAGE_STATS_ENABLED="0").items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(folder / "first"))
        size = {"num_cpus": 1, "object_store_memory": 100_000_000}
        cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
        cluster.add_node(**size, env_vars={"XDG_CACHE_HOME": str(folder / "second")})
        yield cluster
        cluster.shutdown()


@pytest.fixture
def start(laptop: Path, cluster: Cluster) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a driver in the clone, with these variables set."""
    with contextlib.ExitStack() as drivers:

        def started(**values: str) -> subprocess.Popen[str]:
            driver = subprocess.Popen(
                [sys.executable, "-m", "tools.search", "searches/rates.yaml"],
                cwd=laptop,
                env=environment(RAY_ADDRESS=cluster.address, **values),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            drivers.callback(driver.kill)
            return driver

        yield started


def _end(driver: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = driver.communicate(timeout=600)
    return driver.returncode, said


def _experiments(laptop: Path, name: str) -> set[str]:
    """The numbers of the search's experiments on the Git remote."""
    refs = run(laptop, "git", "ls-remote", "origin", f"refs/exps/*/{name}-*").splitlines()
    return {ref.rpartition("-")[2] for ref in refs}


def _table(said: str) -> dict[str, list[str]]:
    """The rows of the printed table by the trials' numbers."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    return {row[0].rpartition("-")[2]: row for row in rows if row and row[0].startswith("rates-")}


def _count(folder: Path) -> int:
    return sum(map(len, trainings(folder).values()))


def _no_training_is_left(folder: Path) -> bool:
    pids = [pid for pids in trainings(folder).values() for pid in pids]
    return not any(map(psutil.pid_exists, pids))


def test_ctrl_c_and_the_death_of_the_driver_cost_no_finished_trial(
    laptop: Path, start: Callable[..., subprocess.Popen[str]], folder: Path
) -> None:
    rates = {"learning_rate": {"choice": [0.01, 0.02, 0.03, 0.04]}}
    name = push(laptop, search=SEARCH, epochs=3, unet=rates)
    (folder / "hold").touch()
    driver = start()
    _until(lambda: len(trainings(folder)) == 2)
    driver.send_signal(signal.SIGINT)
    code, said = _end(driver)
    assert (code, "make search" in said, "Traceback" in said) == (1, True, False), said
    _until(lambda: _no_training_is_left(folder))
    assert _experiments(laptop, name) == set()

    driver = start()
    _until(lambda: _count(folder) == 4)
    first = list(trainings(folder))[-1]
    (folder / "hold").write_text(first)
    _until(lambda: _experiments(laptop, name) and _count(folder) == 5)
    driver.kill()
    driver.wait()
    _until(lambda: _no_training_is_left(folder))
    before = trainings(folder)
    for cache in folder.glob("*/pet-segmentation/dvc"):  # a trial may start again on another node
        shutil.rmtree(cache)
    (folder / "hold").unlink()
    code, said = _end(start())
    assert code == 0, said
    after = trainings(folder)
    assert after[first] == before[first]
    assert len(after) == SEARCH["trials"]

    table = _table(said)
    finished = {number for number, row in table.items() if row[-1] == "finished"}
    assert finished == _experiments(laptop, name)
    assert {row[-1] for row in table.values()} <= {"finished", "stopped"}
    best = max(finished, key=lambda number: float(table[number][2]))
    assert f"`dvc exp apply {name}-{best}`" in said
    run(laptop, "dvc", "exp", "apply", f"{name}-{best}")
    run(laptop, "dvc", "repro", "evaluate@unet")
    assert trainings(folder) == after
    run(laptop, "git", "checkout", "--quiet", "--force", "HEAD")


def test_a_lost_node_a_failing_trial_and_no_tracker_cost_no_other_trial(
    laptop: Path, start: Callable[..., subprocess.Popen[str]], folder: Path, cluster: Cluster
) -> None:
    rates = {"learning_rate": {"choice": [0.01, 0.013, 0.03, 0.04]}}
    name = push(laptop, search=SEARCH, epochs=3, unet=rates)
    with contextlib.chdir(laptop):
        trials = load_space(Path("searches/rates.yaml"))[2]
    failing = {f"{i:02}" for i, values in enumerate(trials, 1) if 0.013 in values.values()}
    assert 0 < len(failing) < 4
    (folder / "hold").touch()
    driver = start(MLFLOW_TRACKING_URI="http://127.0.0.1:1")
    _until(lambda: len([key for key in trainings(folder) if key.startswith(name)]) == 2)
    second = str(folder / "second")
    [lost] = [
        trial
        for trial, pids in trainings(folder).items()
        if psutil.pid_exists(pids[-1]) and psutil.Process(pids[-1]).cwd().startswith(second)
    ]
    cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
    _until(lambda: not psutil.pid_exists(trainings(folder)[lost][0]))
    (folder / "hold").unlink()
    code, said = _end(driver)
    assert (code, "Traceback" in said) == (1, False), said
    assert f"{lost} is lost with its node" in said
    assert len(trainings(folder)[lost]) == 2
    assert "warning: MLflow at http://127.0.0.1:1 failed" in said
    table = _table(said)
    assert {number for number, row in table.items() if row[-1] == "failed"} == failing
    assert len(re.findall(r" failed .* the loss is nan", said)) == len(failing)
    finished = {number for number, row in table.items() if row[-1] == "finished"}
    assert finished == _experiments(laptop, name) != set()


def test_a_real_training_that_is_stopped_is_marked_in_mlflow(
    laptop: Path, start: Callable[..., subprocess.Popen[str]], records: Path
) -> None:
    """The stage `train` on drawn pets; the second trial learns too slowly."""
    pipeline = (laptop / "dvc.yaml").read_text().replace("training.py", "-m stages.train")
    (laptop / "dvc.yaml").write_text(pipeline)
    shutil.rmtree(laptop / "data" / "records")
    shutil.copytree(records, laptop / "data" / "records")
    run(laptop, "dvc", "add", "--quiet", "data/records")
    run(laptop, "dvc", "push", "--quiet")
    search = {**SEARCH, "network": "conv_deconv", "trials": 2, "seed": 0}
    rates = {"learning_rate": {"choice": [0.003, 0.0000001]}}
    name = push(laptop, search=search, epochs=60, batch_size=4, conv_deconv=rates)
    code, said = _end(start())
    assert code == 0, said
    assert {number: row[-2:] for number, row in _table(said).items()} == {
        "01": ["60", "finished"],
        "02": ["1", "stopped"],
    }
    client = MlflowClient(f"sqlite:///{laptop}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.search = '{name}'")
    assert {run.data.tags["dvc.experiment"]: run.info.status for run in runs} == {
        f"{name}-01": "FINISHED",
        f"{name}-02": "KILLED",
    }


@pytest.fixture
def clone(laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another clone, the working folder."""
    run(tmp_path, "git", "clone", "--quiet", str(laptop.parent / "origin.git"), "clone")
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo >> params.yaml", "params.yaml: not committed"),
        ("echo > network.py", "network.py: not committed"),
        ("git commit --quiet --allow-empty --message more", "the commit is not pushed.*`git push`"),
        ("git branch --unset-upstream", "the commit is not pushed"),
        (
            ": > .dvc/config && git commit --quiet --all --message none && git push --quiet",
            "DVC has no remote: `dvc remote add",
        ),
    ],
)
def test_what_trials_could_not_clone_or_push_is_said_before_any_starts(
    clone: Path, command: str, message: str
) -> None:
    assert pushed_commit()[1] == "origin"
    run(clone, "sh", "-c", command)
    with pytest.raises(StageError, match=message):
        pushed_commit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs: [", "while parsing"),
        ("search: {trials: many}", "trials Input should be a valid integer"),
        ("epochs: {choice: [4, 8]}", "epochs.choice: .* give it one value"),
        ("unet: {learning_rate: {loguniform: [0, 1]}}", "unet.learning_rate.loguniform: .*lower"),
        (
            "unet: {learning_rate: {uniform: [2, 3]}}",
            "unet.learning_rate: .*less than or equal to 1",
        ),
        ("unet: {speed: 1}", "unet.speed: Extra inputs are not permitted"),
        ("loss: {dice_weight: {choice: []}}", "loss.dice_weight.choice"),
    ],
)
def test_a_space_that_is_wrong_is_one_line(
    change: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    space = tmp_path / "space.yaml"
    values = {"search": SEARCH, "epochs": 3}
    if change.startswith("epochs: ["):
        space.write_text(change)
    else:
        changed = yaml.safe_load(change)
        search = SEARCH | changed.pop("search", {})
        space.write_text(yaml.safe_dump(values | changed | {"search": search}))
    with pytest.raises(StageError, match=message) as caught:
        load_space(space)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("space", sorted((ROOT / "searches").iterdir()), ids=lambda path: path.stem)
def test_the_spaces_have_allowed_parameters(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    search, _, trials, drawn = load_space(space)
    assert len({str([values[key] for key in drawn]) for values in trials}) == search.trials
