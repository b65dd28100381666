"""Run what changed and what is queued, and push the results: `make worker`, once it has pulled."""

import subprocess
import sys

from dvc.repo import Repo

from stages.stage import StageError, run_stage

RESULTS = ("dvc.lock", "metrics", "reports")


def main() -> None:
    """Run, commit and push, with as many queued experiments at a time as the argument says."""
    upstream = output("git", "rev-parse", "--abbrev-ref", "@{upstream}")
    if changed := output("git", "diff", "--name-only", "HEAD").split():
        raise StageError(f"{', '.join(changed)}: not committed; commit or `git restore` them first")
    if not Repo().config["core"].get("remote"):
        raise StageError("DVC has no remote: `dvc remote add -d storage PATH_OR_URL`; commit it")
    failed = []
    try:
        if _run("dvc", "repro", "--pull", "--allow-missing", check=False):
            failed.append("dvc repro")
        else:
            commit = output("git", "rev-parse", "--short", "HEAD")
            _run("git", "add", "--", *RESULTS)
            if output("git", "diff", "--cached", "--name-only"):
                _run("git", "commit", "--quiet", "--message", f"Results of {commit}")
    finally:  # a failed pipeline leaves results of some stages; DVC has them in its cache
        if half := output("git", "diff", "--name-only", "--", *RESULTS).split():
            _run("git", "restore", "--", *half)
    queue = Repo().experiments.celery_queue
    queued = {task["rev"] for task in queue.status() if task["status"] == "Queued"}
    if queued:  # DVC exits with 0 although an experiment fails
        _run("dvc", "exp", "run", "--run-all", "--jobs", sys.argv[1], check=False)
    ended = [task for task in queue.status() if task["rev"] in queued]
    failed += [f"experiment {task['name']}" for task in ended if task["status"] != "Success"]
    _run("dvc", "push", "--run-cache")
    _run("git", "push", "--quiet")
    if Repo().experiments.ls(all_commits=True):
        _run("dvc", "exp", "push", "--all-commits", "--run-cache", upstream.partition("/")[0])
    if failed:
        raise StageError(f"failed: {', '.join(failed)}; all that has finished is pushed")


def _run(*command: str, check: bool = True) -> int:
    print(f"$ {' '.join(command)}", file=sys.stderr)
    code = subprocess.run(command, check=False).returncode
    if code and check:
        raise StageError(f"`{' '.join(command)}` failed, as said above")
    return code


def output(*command: str) -> str:
    """What a command prints; nothing where it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    run_stage("worker", main)
