"""What a stage prints where there is no terminal."""

import os
import subprocess
import sys


def test_neither_bars_nor_notes_of_tensorflow() -> None:
    program = """
from stages.stage import progress_bar
import tensorflow
with progress_bar("train", 1) as bar:
    bar.update()
"""
    environment = os.environ | {"DVC_STAGE": "train@unet"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
