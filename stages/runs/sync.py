"""Fills in what MLflow lacks of what DVC has: `make sync`.

A stage that DVC takes from its cache, or that ran while MLflow could not be reached, or on another
machine, logs nothing here. This walks the branches, the experiments and the workspace, and makes
the run of each trained network of their dvc.lock that the store does not have yet. What is there
stays as it is.
"""

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import mlflow
import numpy as np
import numpy.typing as npt
import yaml
from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import NoSCM
from mlflow.entities import Run
from pydantic import TypeAdapter, ValidationError

from stages.params import Params, flat
from stages.records.manifest import RECORDS_FOLDER, Manifest, read_manifest
from stages.runs import contents, tracking
from stages.runs.contents import EVALUATION_TAG, MODEL_TAG, Evaluation, Origin, Training
from stages.runs.registry import REGISTERED_TAG, register
from stages.runs.tracking import first_line, without_password
from stages.stage import StageError, run_stage

WORKSPACE = "workspace"
METRICS_FOLDER = tracking.METRICS_FOLDER
# Parameters of `evaluate` alone.
MEASURED_WITH = ("extremes", "test_time_flip")


class SkippedError(Exception):
    """Why something of a revision cannot be logged."""


class Revision(NamedTuple):
    """A state of the repository.

    Attributes:
        rev: A commit, or WORKSPACE.
        name: What its user calls it.
        origin: What its runs say about where they come from.
    """

    rev: str
    name: str
    origin: Origin


class Trained(NamedTuple):
    """A network as dvc.lock has it.

    Attributes:
        network: Its name.
        params: The parameters that it was trained and measured with, flat, as a run has them.
        md5: The checksums of files by path: the network and its history, and what `evaluate` wrote
            of this network if it has.
        evaluated: Whether it has.
        records: Whether data/records are those that it was trained on; if not, nothing is known
            of what `prepare` made them with.
    """

    network: str
    params: dict[str, Any]
    md5: dict[str, str]
    evaluated: bool
    records: bool

    @property
    def model(self) -> str:
        """The path of the network's file."""
        return f"models/{self.network}.keras"


def main() -> None:
    """Fills in the runs of this repository."""
    argparse.ArgumentParser(prog="python -m tools.sync", description=__doc__).parse_args()
    sync()


def sync() -> None:
    """Fills in the runs, and says in a line of each what was added.

    Raises:
        StageError: There is no DVC repository at tracking.ROOT, or the store cannot be used.
    """
    try:
        repo = Repo(str(tracking.ROOT))
    except NotDvcRepoError as error:
        raise StageError(f"{tracking.ROOT} is not a DVC repository: `dvc init` first") from error
    try:
        store = Store(tracking.open_experiment())
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise _store_error(error) from error
    with contextlib.closing(repo):
        for revision in revisions(repo):
            sync_revision(repo, revision, store)
    print(store.summary())


class Store:
    """The runs that the store has by what they are of, and a count of what was added."""

    def __init__(self, experiment: str) -> None:
        """Reads the runs of an MLflow experiment."""
        self.experiment = experiment
        self.seen: set[tuple[str, str]] = set()
        self.added = self.completed = self.incomplete = self.skipped = 0
        self._runs: dict[tuple[str, str], Run] = {}
        runs: list[Run] = mlflow.search_runs(
            [experiment], order_by=["attributes.start_time ASC"], output_format="list"
        )
        for run in runs:  # the newest of the same last: it is the one that `evaluate` finds
            if md5 := run.data.tags.get(MODEL_TAG):
                self._runs[md5, run.data.params.get("test_time_flip", "")] = run

    def find(self, key: tuple[str, str]) -> Run | None:
        """The run of a network's checksum and way of measuring."""
        return self._runs.get(key)

    def summary(self) -> str:
        """What was done, in one line."""
        parts = [
            f"{self.added} added",
            f"{self.completed} completed",
            f"{len(self.seen) - self.added - self.completed - self.incomplete} there already",
        ]
        parts += [f"{self.incomplete} incomplete"] if self.incomplete else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        return f"MLflow at {without_password(mlflow.get_tracking_uri())}: {', '.join(parts)}"


def revisions(repo: Repo) -> Iterator[Revision]:
    """Branches, experiments and the workspace, in this order.

    The first that has a network names its run: a network that an experiment has not changed is that
    of the branch.
    """
    if not isinstance(repo.scm, NoSCM):
        yield from _branches(repo)
        experiments = [
            Revision(rev, name, Origin(name, baseline, name, baseline, _commit_time(repo, rev)))
            for baseline, found in repo.experiments.ls(all_commits=True).items()
            for name, rev in found
        ]
        yield from sorted(experiments, key=_by_time)
    lock = Path(repo.root_dir) / "dvc.lock"
    if lock.exists():
        seconds = lock.stat().st_mtime
        title = f"{datetime.fromtimestamp(seconds):%m-%d %H:%M}"
        has_commit = not isinstance(repo.scm, NoSCM) and repo.scm.get_ref("HEAD")
        commit = repo.scm.get_rev() if has_commit else ""
        yield Revision(WORKSPACE, "the workspace", Origin(title, commit, time=int(seconds * 1000)))


def _branches(repo: Repo) -> list[Revision]:
    """One for each commit: the branch that is checked out, other local ones, those of remotes."""
    branches: dict[str, Revision] = {}
    current = repo.scm.get_ref("HEAD", follow=False)
    for kind in ("refs/heads/", "refs/remotes/"):
        found = []
        for ref in repo.scm.iter_refs(kind):
            name = ref.removeprefix(kind)
            if not name.endswith("/HEAD"):
                rev = repo.scm.resolve_commit(ref).hexsha
                time = _commit_time(repo, rev)
                title = f"{name} {rev[:7]}"
                found.append(Revision(rev, name, Origin(title, commit=rev, time=time)))
        found.sort(key=lambda revision: (f"{kind}{revision.name}" != current, *_by_time(revision)))
        for revision in found:
            branches.setdefault(revision.rev, revision)
    return list(branches.values())


def _by_time(revision: Revision) -> tuple[int, str]:
    return revision.origin.time or 0, revision.name


def _commit_time(repo: Repo, rev: str) -> int:
    """Milliseconds since 1970."""
    return int(repo.scm.resolve_commit(rev).commit_time * 1000)


def sync_revision(repo: Repo, revision: Revision, store: Store) -> None:
    """Makes or completes the runs of a revision, and says what cannot be logged and why."""
    try:
        with repo.switch(revision.rev):
            params = yaml.safe_load(_read(repo, "params.yaml"))
            for found in trained_networks(_read(repo, "dvc.lock"), params):
                sync_network(repo, revision, found, store)
    except StageError:
        raise
    except Exception as error:  # a broken revision gives errors of DVC, Git and YAML alike
        store.skipped += 1
        print(f"skipped: {revision.name}: {without_password(first_line(error))}")


def trained_networks(lock: bytes, params_file: Mapping[str, Any]) -> Iterator[Trained]:
    """The networks of a dvc.lock.

    Args:
        lock: The file's contents.
        params_file: What params.yaml holds; it is asked only for how a network that has not been
            measured yet will be. For the rest the lock says what a stage ran with.

    Raises:
        SkippedError: It is not a dvc.lock, or not of a pipeline with these stages.
    """
    try:
        stages = yaml.safe_load(lock)["stages"]
        prepare = stages["prepare"]
        names = [name for name in stages if name.startswith("train@")]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise SkippedError("its dvc.lock is not one of this pipeline") from error
    for name in names:
        network = name.removeprefix("train@")
        train, evaluate = stages[name], stages.get(f"evaluate@{network}", {})
        md5 = _checksums(train, "outs")
        model, records = f"models/{network}.keras", str(RECORDS_FOLDER)
        trained_on = _checksums(train, "deps").get(records)
        measured = _checksums(evaluate, "deps")
        evaluated = (measured.get(model), measured.get(records)) == (md5.get(model), trained_on)
        same_records = _checksums(prepare, "outs").get(records) == trained_on
        params = (_params(prepare) if same_records else {}) | _params(train)
        if evaluated:
            params |= _params(evaluate)
            md5 |= _checksums(evaluate, "outs")
        else:
            params |= {key: params_file[key] for key in MEASURED_WITH if key in params_file}
        own = params.pop(network, {})
        yield Trained(
            network,
            flat(params) | flat(own),
            md5,
            evaluated,
            same_records,
        )


def _checksums(stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in stage.get(kind, [])}


def _params(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a stage, in the form that the stages themselves log them in."""
    values = stage.get("params", {}).get("params.yaml", {})
    return {key: _typed(key, value) for key, value in values.items()}


def _typed(key: str, value: Any) -> Any:
    """A value as `Params` has it, 1 as 1.0 where it is a float; as it is where it has no place."""
    field = Params.model_fields.get(key)
    if field is None:
        return value
    try:
        typed: Any = TypeAdapter(cast(Any, field.annotation)).validate_python(value)
    except ValidationError:  # of an older or a newer form of params.yaml
        return value
    return typed.model_dump() if hasattr(typed, "model_dump") else typed


def sync_network(repo: Repo, revision: Revision, found: Trained, store: Store) -> None:
    """Makes or completes the run of a network of the revision that `repo` is switched to.

    Raises:
        StageError: The store has failed.
    """
    key = (found.md5[found.model], str(found.params.get("test_time_flip", "")))
    if key in store.seen:
        return
    store.seen.add(key)
    run = store.find(key)
    if run and _is_complete(run, found):
        return
    with tempfile.TemporaryDirectory() as folder:
        material = gather(Files(repo, found, Path(folder)), with_network=not _has_network(run))
        try:
            done, verdict = fill_in(store.experiment, revision.origin, found, material, run)
        except Exception as error:
            raise _store_error(error, f" at {found.network} of {revision.name}") from error
    name = run.info.run_name if run else f"{found.network} · {revision.origin.title}"
    if run is None:
        store.added += 1
        line = f"added: {name}"
    elif done:
        store.completed += 1
        line = f"completed: {name} has now its {' and its '.join(done)}"
    else:
        store.incomplete += 1
        line = f"incomplete: {name}"
    print("; ".join([line, *material.missing]))
    if verdict:
        print(f"  {verdict}")


def _store_error(error: Exception, when: str = "") -> StageError:
    where = without_password(mlflow.get_tracking_uri())
    reason = without_password(first_line(error))
    return StageError(
        f"MLflow at {where} failed{when}: {reason}; what it has is complete, and `make sync`"
        " goes on from there"
    )


def _has_network(run: Run | None) -> bool:
    return run is not None and contents.model_id(run) is not None


def _is_complete(run: Run, found: Trained) -> bool:
    measured = {EVALUATION_TAG, REGISTERED_TAG} <= set(run.data.tags)
    return _has_network(run) and (measured or not found.evaluated)


class Files:
    """The files of a network at a revision, copied to a folder when they are asked for."""

    def __init__(self, repo: Repo, found: Trained, folder: Path) -> None:
        """Takes a repository that is switched to the revision."""
        self.found = found
        self.folder = folder
        self._repo = repo

    def get(self, path: str) -> Path | None:
        """A copy of a file of Git, of DVC's cache or of its remote; None if it cannot be had.

        A file of dvc.lock must be the one that it names.
        """
        copy = self.folder / Path(path).name
        try:
            with self._repo.dvcfs.open(f"/{path}", "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        except Exception:  # no such file, no remote, no network, no login: all the same here
            return None
        expected = self.found.md5.get(path)
        return copy if expected is None or contents.file_md5(copy) == expected else None


class Material(NamedTuple):
    """What can be had of a network's files; None for what cannot, and `missing` says it."""

    model: Any
    history: Path | None
    manifest: Manifest | None
    example: npt.NDArray[np.uint8] | None
    evaluation: Evaluation | None
    missing: list[str]


def gather(files: Files, *, with_network: bool) -> Material:
    """Gets the files of a network, its own only `with_network`."""
    found, missing = files.found, []
    model = None
    if with_network:
        path = files.get(found.model)
        if path is None:
            missing.append(f"{found.model} is in neither the cache nor the remote")
        else:
            try:
                model = contents.load_network(path)
            except Exception as error:  # another Keras, or code that is no longer there
                missing.append(f"{found.model} cannot be loaded: {first_line(error)}")
    history = files.get(f"metrics/{found.network}.history.csv")
    if history is None:
        missing.append("its history is not the one of dvc.lock")
    manifest = example = None
    if found.records and (path := files.get(f"{RECORDS_FOLDER}/manifest.json")):
        with contextlib.suppress(StageError):
            manifest = read_manifest(path.parent)
        files.get(f"{RECORDS_FOLDER}/examples.npz")
        example = contents.example_picture(files.folder)
    if manifest is None:
        missing.append("its records are in neither the cache nor the remote")
    evaluation = _evaluation(files) if found.evaluated else None
    if evaluation is None:
        missing.append("it has no test figures of this form")
    return Material(model, history, manifest, example, evaluation, missing)


def _evaluation(files: Files) -> Evaluation | None:
    expected = contents.evaluation_of(files.found.network, METRICS_FOLDER)
    figures, images = files.get(str(expected.figures)), files.get(str(expected.images))
    if not figures or not images:
        return None
    try:
        contents.test_metrics(figures)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    pictures = [picture for path in expected.pictures if (picture := files.get(str(path)))]
    return Evaluation(figures, images, pictures)


def fill_in(
    experiment: str, origin: Origin, found: Trained, material: Material, run: Run | None
) -> tuple[list[str], str]:
    """Makes a run, or adds what it lacks; returns what was added and the registry's verdict."""
    done = []
    if run is None:
        run_id = contents.restore_run(
            experiment,
            Training(found.network, found.params, material.manifest),
            origin,
            model_md5=found.md5[found.model],
            model=material.model,
            history=material.history,
            example=material.example,
        )
        run = mlflow.get_run(run_id)
    elif material.model is not None:
        rows = contents.read_history(material.history) if material.history else []
        with contents.reopened(run):
            contents.log_network(found.network, material.model, rows, material.example)
        run = mlflow.get_run(run.info.run_id)
        done.append("network")
    if material.evaluation and EVALUATION_TAG not in run.data.tags:
        contents.log_evaluation(run, material.evaluation, origin.time)
        done.append("test figures")
    verdict = ""
    if material.evaluation and material.manifest and REGISTERED_TAG not in run.data.tags:
        verdict = register(run, material.evaluation.images, material.manifest)
        done += ["version in the registry"] if _has_network(run) else []
    return done, verdict


def _read(repo: Repo, name: str) -> bytes:
    """A file of Git at the revision that `repo` is switched to.

    Raises:
        SkippedError: There is none.
    """
    try:
        with repo.fs.open(repo.fs.join(repo.root_dir, name), "rb") as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError as error:
        raise SkippedError(f"it has no {name}") from error


if __name__ == "__main__":
    run_stage("sync", main)
