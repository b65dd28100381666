"""Stage `train`: trains one network and keeps its best checkpoint by validation loss."""

import argparse
import signal
from pathlib import Path

import pandas as pd

from stages.networks.model_file import save_model
from stages.params import check_network, load_params
from stages.records.manifest import RECORDS_FOLDER, read_manifest
from stages.runs.tracking import TrainingRun
from stages.stage import StageError, replacing, run_stage
from stages.train.loop import train
from stages.train.machines import MACHINE_GONE, worker_index
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
    try:
        if worker_index(params):  # worker 0 writes
            train(network, params, manifest, RECORDS_FOLDER)
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
    except KeyboardInterrupt:
        raise StageError(
            "interrupted; the same command with the same parameters goes on after epoch"
            f" {len(saved.state.history)} of {params.epochs}"
        ) from None
    except MACHINE_GONE as error:
        if params.distribution != "multi_worker":
            raise
        raise StageError(
            "another machine of the training is gone; start the command on all of them again: they"
            " go on after the last epoch that worker 0 finished"
        ) from error
    best = min(history, key=lambda row: row["val_loss"])
    print(
        f"{network}: best of {len(history)} epochs is epoch {best['epoch']}:"
        f" validation loss {best['val_loss']:.4f}, accuracy {best['val_accuracy']:.4f},"
        f" mean IoU {best['val_mean_iou']:.4f}; weights in {model_path}"
    )


if __name__ == "__main__":
    run_stage("train", main)
