"""Stage `train`: trains one network and keeps its best checkpoint by validation loss."""

import argparse
import json
import os
import signal
from pathlib import Path

import pandas as pd
import tensorflow as tf

from stages.networks.model_file import save_model
from stages.params import Params, check_network, load_params
from stages.records.manifest import RECORDS_FOLDER, read_manifest
from stages.runs.tracking import TrainingRun
from stages.stage import StageError, replacing, run_stage
from stages.train.loop import train
from stages.train.state import StateFile


def main() -> None:
    """Train the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a folder of stages/networks/ with a group in params.yaml")
    network = parser.parse_args().network
    params = load_params()
    check_network(network, params)
    manifest = read_manifest()
    model_path = Path("models", f"{network}.keras")
    history_path = Path("metrics", f"{network}.history.csv")
    for path in (model_path, history_path):
        path.parent.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    saved = StateFile(network, params, manifest)
    worker = worker_index(params)
    try:
        if worker:
            train(network, params, manifest, RECORDS_FOLDER)
            print(f"{network} is trained; worker 0 has the results")
            return
        with saved:
            run_id, history = saved.state.run_id, saved.state.history
            if history:
                print(f"{network} goes on after epoch {len(history)} of {params.epochs}")
            with TrainingRun(network, params, manifest, run_id, history) as run:
                model, history = train(network, params, manifest, RECORDS_FOLDER, run, saved)
                save_model(model, model_path)
                with replacing(history_path) as new:
                    table = pd.DataFrame(history)
                    table.to_csv(new, index=False, float_format="%.6f", lineterminator="\n")
                run.log_files(model_path, history_path)
    except (KeyboardInterrupt, tf.errors.UnavailableError) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        reason = "interrupted" if interrupted else "another machine is gone, start all again"
        epoch = f"epoch {len(saved.state.history)} of {params.epochs}"
        after = "worker 0's last epoch" if worker else epoch
        raise StageError(
            f"{reason}; the same command with the same parameters goes on after {after}"
        ) from None
    best = min(history, key=lambda row: row["val_loss"])
    print(
        f"{network}: best of {len(history)} epochs is epoch {best['epoch']}:"
        f" validation loss {best['val_loss']:.4f}, accuracy {best['val_accuracy']:.4f},"
        f" mean IoU {best['val_mean_iou']:.4f}; weights in {model_path}"
    )


def worker_index(params: Params) -> int:
    """This machine's place in TF_CONFIG, 0 without others; StageError if it has none."""
    if params.distribution != "multi_worker":
        return 0
    try:
        config = json.loads(os.environ.get("TF_CONFIG", ""))
        places = [("worker", index) for index in range(len(config["cluster"]["worker"]))]
        return places.index((config["task"]["type"], config["task"]["index"]))
    except (LookupError, TypeError, ValueError):
        form = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
        raise StageError(f"the environment variable TF_CONFIG must be {form}") from None


if __name__ == "__main__":
    run_stage("train", main)
