"""Check params.yaml: `python -m stages.params`."""

from stages.params import load_params
from stages.stage import run_stage

if __name__ == "__main__":
    run_stage("params", load_params)
