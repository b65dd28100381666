"""Fill in the MLflow runs of all that DVC has: `make sync`.

A stage that DVC takes from its cache, that ran while MLflow was unavailable, or that ran on another
machine, logs nothing here. This makes the runs of all networks in each dvc.lock of the branches,
the experiments and the workspace that the store lacks. What it has stays as it is.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from dvc.exceptions import NotDvcRepoError
from dvc.repo import Repo
from dvc.scm import NoSCM
from pydantic import TypeAdapter, ValidationError

from stages.metrics.results import Results
from stages.params import Params, flat
from stages.records.manifest import EXAMPLES_FILE, RECORDS_FOLDER, read_manifest
from stages.runs import run, tracking
from stages.runs.registry import REGISTERED_TAG, model_id
from stages.runs.tracking import one_line, open_experiment, trouble
from stages.stage import StageError, run_stage

# Parameters of `evaluate` alone.
EVALUATED_WITH = ("extremes", "test_time_flip")


class Revision(NamedTuple):
    """A commit, or the workspace; `origin` is what `run.Training` says about it."""

    rev: str
    name: str
    origin: dict[str, Any]


class Trained(NamedTuple):
    """A network as a dvc.lock has it."""

    network: str
    params: dict[str, Any]  # flat, as a run has them
    md5: dict[str, str]  # by path: the network, its history, and what `evaluate` wrote
    evaluated: bool
    records: bool  # whether data/records are those that it was trained on

    @property
    def model_md5(self) -> str:
        """Checksum of the network's file."""
        return self.md5[f"models/{self.network}.keras"]


def sync() -> None:
    """Fill in the runs, and print a line for each that was added or is incomplete.

    Raises:
        StageError: The project is not a DVC repository, or the store is unavailable.
    """
    try:
        repo = Repo(str(tracking.ROOT))
    except NotDvcRepoError as error:
        raise StageError(f"{tracking.ROOT} is not a DVC repository: `dvc init` first") from error
    try:
        experiment = open_experiment()
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(trouble(error)) from error
    outcomes = Counter(dict.fromkeys(("added", "completed", "there already"), 0))
    seen = set()
    with contextlib.closing(repo):
        for revision in revisions(repo):
            try:
                with repo.switch(revision.rev):
                    for found in trained_networks(repo.dvcfs):
                        key = (found.model_md5, str(found.params["test_time_flip"]))
                        if key not in seen:
                            seen.add(key)
                            outcomes[sync_network(repo, experiment, revision, found)] += 1
            except StageError:
                raise
            except Exception as error:  # a broken revision raises errors of DVC, Git and YAML alike
                outcomes["skipped"] += 1
                print(f"skipped: {revision.name}: {one_line(error)}")
    print(f"MLflow: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")


def revisions(repo: Repo) -> Iterator[Revision]:
    """Branches, experiments and the workspace, in this order.

    The first that has a network names its run: a network that an experiment has not changed is that
    of the branch.
    """
    git = not isinstance(repo.scm, NoSCM)
    if git:
        yield from _branches(repo)
        found = repo.experiments.ls(all_commits=True).items()
        experiments = [(baseline, *named) for baseline, names in found for named in names]
        for baseline, name, rev in sorted(experiments, key=lambda found: _time(repo, found[2])):
            origin = {"title": name, "commit": baseline, "experiment": name, "baseline": baseline}
            yield Revision(rev, name, origin | {"time": _time(repo, rev)})
    lock = Path(repo.root_dir) / "dvc.lock"
    if lock.exists():
        seconds = lock.stat().st_mtime
        commit = repo.scm.get_rev() if git and repo.scm.get_ref("HEAD") else ""
        origin = {"title": f"{datetime.fromtimestamp(seconds):%m-%d %H:%M}", "commit": commit}
        yield Revision("workspace", "the workspace", origin | {"time": int(seconds * 1000)})


def _branches(repo: Repo) -> Iterator[Revision]:
    """The branch that is checked out, other local ones, those of remotes; each commit once."""
    current = repo.scm.get_ref("HEAD", follow=False)
    refs = [*repo.scm.iter_refs("refs/heads/"), *repo.scm.iter_refs("refs/remotes/")]
    found = []
    for ref in refs:
        rev = repo.scm.get_ref(ref)
        found.append((ref != current, "remotes" in ref, _time(repo, rev), ref, rev))
    seen = set()
    for *_, time, ref, rev in sorted(found):
        if rev not in seen:
            seen.add(rev)
            name = ref.split("/", 2)[2]
            yield Revision(rev, name, {"title": f"{name} {rev[:7]}", "commit": rev, "time": time})


def _time(repo: Repo, rev: str) -> int:
    """A commit's time, milliseconds since 1970."""
    return int(repo.scm.resolve_commit(rev).commit_time * 1000)


def trained_networks(files: Any) -> Iterator[Trained]:
    """The networks of the dvc.lock of a file system of DVC.

    Raises:
        ValueError: There is none, or it is not of a pipeline with these stages.
    """
    if not files.exists("/dvc.lock"):
        raise ValueError("it has no dvc.lock")
    try:
        stages = yaml.safe_load(files.cat_file("/dvc.lock"))["stages"]
        prepare = stages["prepare"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError("its dvc.lock is not one of this pipeline") from error
    params_file = yaml.safe_load(files.cat_file("/params.yaml"))
    for network in [name.removeprefix("train@") for name in stages if name.startswith("train@")]:
        train, evaluate = stages[f"train@{network}"], stages.get(f"evaluate@{network}", {})
        md5, measured = _checksums(train, "outs"), _checksums(evaluate, "deps")
        model, records = f"models/{network}.keras", str(RECORDS_FOLDER)
        trained_on = _checksums(train, "deps").get(records)
        evaluated = (measured.get(model), measured.get(records)) == (md5[model], trained_on)
        same_records = _checksums(prepare, "outs").get(records) == trained_on
        params = (_params(prepare) if same_records else {}) | _params(train)
        # How a network will be evaluated that has not been yet; False before there was the choice.
        params |= {"test_time_flip": False}
        params |= {key: params_file[key] for key in EVALUATED_WITH if key in params_file}
        if evaluated:
            params |= _params(evaluate)
            md5 |= _checksums(evaluate, "outs")
        own = params.pop(network, {})
        yield Trained(network, flat(params) | flat(own), md5, evaluated, same_records)


def _checksums(stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in stage.get(kind, [])}


def _params(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's parameters as `Params` has them: 1 as 1.0 where it is a float."""
    values = dict(stage.get("params", {}).get("params.yaml", {}))
    for key, value in values.items():
        with contextlib.suppress(KeyError, ValidationError):  # of another form of params.yaml
            annotation: Any = Params.model_fields[key].annotation
            kind = TypeAdapter(annotation)
            values[key] = kind.dump_python(kind.validate_python(value))
    return values


def sync_network(repo: Repo, experiment: str, revision: Revision, found: Trained) -> str:
    """Add what the store lacks of a network of the revision that `repo` is switched to.

    Returns:
        "added", "completed", "incomplete" or "there already".

    Raises:
        StageError: The store has failed.
    """
    try:
        before = run.find_run(experiment, found.model_md5, found.params["test_time_flip"])
        logged = before is not None and model_id(before) is not None
        tags = before.data.tags if before else {}
        if logged and (not found.evaluated or {run.EVALUATION_TAG, REGISTERED_TAG} <= tags.keys()):
            return "there already"
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model, missing = (None, []) if logged else _model(repo, found, folder)
            missing += _fetch_files(repo, found, folder)
            manifest = None
            with contextlib.suppress(StageError):
                manifest = read_manifest(folder / RECORDS_FOLDER)
            training = run.Training(found.network, found.params, manifest, **revision.origin)
            added, verdict = run.record(
                experiment, training, before, found.model_md5, model, folder
            )
    except Exception as error:  # MLflow, SQLAlchemy, requests: anything
        raise StageError(f"{found.network} of {revision.name}: {trouble(error)}") from error
    outcome = "added" if before is None else "completed" if added else "incomplete"
    run_name = before.info.run_name if before else f"{found.network} · {training.title}"
    has = f" now has its {' and its '.join(added)}" if outcome == "completed" else ""
    print("; ".join([f"{outcome}: {run_name}{has}", *missing]))
    if verdict:
        print(f"  {verdict}")
    return outcome


def _model(repo: Repo, found: Trained, folder: Path) -> tuple[Any, list[str]]:
    """The Keras model, or None and why."""
    path = f"models/{found.network}.keras"
    if not _fetch(repo, found, path, folder):
        return None, [f"{path} is in neither the cache nor the remote"]
    try:
        return run.load_model(folder / path), []
    except Exception as error:  # another Keras, or code that is no longer there
        return None, [f"{path} cannot be loaded: {one_line(error)}"]


def _fetch_files(repo: Repo, found: Trained, folder: Path) -> list[str]:
    """Copy what `run.record` reads, and say what is missing."""
    stem, missing = f"metrics/{found.network}", []
    if not _fetch(repo, found, f"{stem}.history.csv", folder):
        missing.append("its history is not the one of dvc.lock")
    manifest, examples = (f"{RECORDS_FOLDER}/{name}" for name in ("manifest.json", EXAMPLES_FILE))
    if not (found.records and _fetch(repo, found, manifest, folder)):
        missing.append("its records are in neither the cache nor the remote")
    elif not _fetch(repo, found, examples, folder):
        missing.append("it has no input example")
    written = [f"{stem}.{kind}" for kind in ("images.csv", "worst.png", "best.png", "json")]
    if not (found.evaluated and all(_fetch(repo, found, path, folder) for path in written)):
        return [*missing, "it has no test metrics"]
    try:
        Results.read(folder / written[-1], f"evaluate@{found.network}")
    except StageError:
        (folder / written[-1]).unlink()
        missing.append("its test metrics have another form")
    return missing


def _fetch(repo: Repo, found: Trained, path: str, folder: Path) -> bool:
    """Copy a file from Git, DVC's cache or its remote; if dvc.lock has it, it must be that one."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        repo.dvcfs.get_file(f"/{path}", str(target))
        whole = found.md5.get(path) in {None, run.file_md5(target)}
    except Exception:  # no such file, no remote, no network, no login: all the same here
        whole = False
    if not whole:
        target.unlink(missing_ok=True)
    return whole


if __name__ == "__main__":
    run_stage("sync", sync)
