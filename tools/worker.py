"""What a GPU worker does once `make worker` has pulled: runs what has changed, gives it back.

Runs of the pipeline and of the queue are DVC's own; this joins them with Git, and says by its exit
code whether all went well. What has finished is pushed even where something else has failed.
"""

import argparse
import subprocess
import sys
from typing import Any

from dvc.repo import Repo

from stages.stage import StageError, run_stage

RESULTS = ("dvc.lock", "metrics", "reports")


def main() -> None:
    """Runs, commits and pushes."""
    parser = argparse.ArgumentParser(prog="python -m tools.worker", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="queued experiments at a time")
    jobs = parser.parse_args().jobs
    check_checkout()
    failures = []
    try:
        if run("dvc", "repro", "--pull", "--allow-missing", fail=False):
            failures.append("dvc repro")
        else:
            commit_results()
    finally:
        restore_results()
    failures += [f"the queued experiment {name}" for name in run_queue(jobs)]
    run("dvc", "push", "--run-cache")
    run("git", "push", "--quiet")
    if Repo().experiments.ls(all_commits=True):
        remote = upstream().partition("/")[0]
        run("dvc", "exp", "push", "--all-commits", "--run-cache", "--quiet", remote)
    if failures:
        raise StageError(f"failed: {', '.join(failures)}; all that has finished is pushed")


def check_checkout() -> None:
    """Stops where results could not be given back, or would be mixed with unfinished edits.

    Raises:
        StageError: There are changes that are not committed, the branch has no upstream, or DVC
            has no remote.
    """
    if changes := output("git", "status", "--porcelain", "--untracked-files=no"):
        files = ", ".join(line.split(maxsplit=1)[1] for line in changes.splitlines())
        raise StageError(
            f"there are changes that are not committed: {files}; commit them or `git restore` them,"
            " so that the results are those of a commit"
        )
    if not upstream():
        raise StageError(
            "this branch has no upstream to push results to: `git push -u origin BRANCH` first"
        )
    if not Repo().config.get("core", {}).get("remote"):
        raise StageError(
            "DVC has no remote to keep networks in: `dvc remote add -d storage PATH_OR_URL`,"
            " and commit .dvc/config"
        )


def commit_results() -> None:
    """Commits what the pipeline has written, if anything of it is new."""
    commit = output("git", "rev-parse", "--short", "HEAD")
    run("git", "add", "--", *RESULTS)
    if output("git", "status", "--porcelain", "--untracked-files=no"):
        run("git", "commit", "--quiet", "--message", f"Results of {commit}")


def restore_results() -> None:
    """Takes back what a pipeline that failed has written over committed results.

    Nothing else has changed them since `check_checkout`. The outputs of the stages that went well
    are in DVC's cache and come from there in the next run.
    """
    if changed := output("git", "diff", "--name-only", "--", *RESULTS):
        run("git", "restore", "--", *changed.splitlines())


def run_queue(jobs: int) -> list[str]:
    """Runs the queued experiments, `jobs` at a time, and returns the names of those that failed.

    DVC itself ends with 0 where an experiment of the queue has failed.
    """
    tasks = {task["rev"] for task in queue() if task["status"] == "Queued"}
    if not tasks:
        return []
    run("dvc", "exp", "run", "--run-all", "--jobs", str(jobs), fail=False)
    return [
        task["name"] or task["rev"][:7]
        for task in queue()
        if task["rev"] in tasks and task["status"] != "Success"
    ]


def queue() -> list[dict[str, Any]]:
    """The tasks of DVC's queue with `rev`, `name` and `status`."""
    return Repo().experiments.celery_queue.status()


def upstream() -> str:
    """The branch that results are pushed to, such as `origin/main`; empty if there is none."""
    return output("git", "rev-parse", "--abbrev-ref", "--symbolic-full-name", "@{upstream}")


def run(*command: str, fail: bool = True) -> int:
    """Runs a command whose output goes where this one's goes; returns its exit code.

    Raises:
        StageError: It fails, and `fail` is true.
    """
    print(f"$ {' '.join(command)}", file=sys.stderr)
    code = subprocess.run(command, check=False).returncode
    if code and fail:
        raise StageError(f"`{' '.join(command)}` failed; what it said is above")
    return code


def output(*command: str) -> str:
    """What a command prints, without the line's end; nothing where it fails."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


if __name__ == "__main__":
    run_stage("worker", main)
