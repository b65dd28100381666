"""The files of models/<network>.export/, and which network's file they were made from."""

import json
from pathlib import Path

from stages.records.manifest import file_sha256

# What `export.formats` of params.yaml may name, and the files.
FILES = {
    "saved_model": "saved_model",
    "litert_float32": "{network}.float32.tflite",
    "litert_float16": "{network}.float16.tflite",
    "litert_int8": "{network}.int8.tflite",
    "onnx": "{network}.onnx",
}
# The name and the checksum of the network's file.
SOURCE_FILE = "source.json"


def write_source(folder: Path, model: Path) -> None:
    """Writes into an export's folder which file of a network it was made from."""
    source = {"file": model.name, "sha256": file_sha256(model)}
    (folder / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def is_made_from(folder: Path, model: Path) -> bool:
    """Whether an export's folder says that it was made from exactly this file of a network.

    Raises:
        OSError: The network's file cannot be read.
    """
    try:
        source = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        recorded = source["sha256"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: it says nothing
        return False
    return bool(recorded == file_sha256(model))
