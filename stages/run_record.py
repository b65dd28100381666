"""What a stage last ran on here and how long it took: a note for the report.

It is no output of a stage, since a time is no result: a stage that DVC takes from its cache has
none on this machine.
"""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages.stage import replacing

RECORDS_FOLDER = Path(".dvc") / "tmp" / "stages"
# What decides the figures; the whole list is in requirements.lock.
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "tensorflow-datasets", "numpy", "pillow")


def write_run_record(stage: str, seconds: float, **notes: Any) -> None:
    """Writes .dvc/tmp/stages/<stage>.json.

    Args:
        stage: The stage's name as in dvc.yaml.
        seconds: Wall time of the stage, imports left out.
        notes: Other times that the stage took of something, as JSON has them.
    """
    record = {
        "stage": stage,
        "seconds": round(seconds, 1),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpus": _gpus(),
        **notes,
    }
    path = RECORDS_FOLDER / f"{stage}.json"
    try:
        RECORDS_FOLDER.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new:
            new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OSError as error:  # the stage's own files are whole
        print(f"warning: {path} is not written: {error.strerror}", file=sys.stderr)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    # A stage that has not loaded TensorFlow does not use a GPU.
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return []
    devices = tensorflow.config.list_physical_devices("GPU")
    details = (tensorflow.config.experimental.get_device_details(device) for device in devices)
    return [detail.get("device_name", "GPU") for detail in details]
