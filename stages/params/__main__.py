"""Checks params.yaml: `python -m stages.params`."""

import sys

from stages.params import PARAMS_FILE, load_params
from stages.stage import run_stage

if __name__ == "__main__":
    run_stage(
        "params",
        lambda: print(
            f"{PARAMS_FILE}: {len(load_params().model_fields_set)} keys, all good", file=sys.stderr
        ),
    )
