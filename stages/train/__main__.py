"""Stage `train`: trains one network and keeps its best checkpoint by validation loss."""

import argparse
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from stages.networks.model_file import save_model
from stages.params import check_network, load_params
from stages.records.manifest import RECORDS_FOLDER, read_manifest
from stages.runs.tracking import TrainingRun
from stages.stage import StageError, replacing, run_stage
from stages.train.loop import train
from stages.train.state import StateFile

MODELS_FOLDER = Path("models")
METRICS_FOLDER = Path("metrics")
HISTORY_COLUMNS = [
    "epoch",
    *("loss", "accuracy", "mean_iou"),  # over the epoch's training batches
    *("val_loss", "val_accuracy", "val_mean_iou"),
]


def main() -> None:
    """Trains the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a folder of stages/networks/ with a group in params.yaml")
    network = parser.parse_args().network
    params = load_params()
    check_network(network, params)
    manifest = read_manifest()
    model_path = MODELS_FOLDER / f"{network}.keras"
    history_path = METRICS_FOLDER / f"{network}.history.csv"
    for folder in (MODELS_FOLDER, METRICS_FOLDER):
        folder.mkdir(exist_ok=True)
    interruption = Interruption()
    saved = StateFile(network, params, manifest)
    try:
        with saved:
            earlier = (saved.state.run_id, saved.state.history) if saved.state else ()
            if earlier:
                print(f"{network} goes on after epoch {saved.epochs} of {params.epochs}")
            with TrainingRun(network, params, manifest, *earlier) as run:
                model, history = train(
                    network, params, manifest, RECORDS_FOLDER, run, saved, interruption
                )
                save_model(model, model_path)
                write_history(history, history_path)
                run.log_files(model_path, history_path)
    except KeyboardInterrupt:
        raise StageError(
            "interrupted; the same command with the same parameters goes on after epoch"
            f" {saved.epochs} of {params.epochs}"
        ) from None
    best = min(history, key=lambda row: row["val_loss"])
    print(
        f"{network}: best of {len(history)} epochs is epoch {best['epoch']}:"
        f" validation loss {best['val_loss']:.4f}, accuracy {best['val_accuracy']:.4f},"
        f" mean IoU {best['val_mean_iou']:.4f}; weights in {model_path}"
    )


class Interruption:
    """Whether SIGTERM or Ctrl-C has come; called, it says so.

    Raises nothing in the handler: Python drops what is raised in a destructor.
    """

    def __init__(self) -> None:
        """Listens from now on; not to Ctrl-C where it is ignored, as after `nohup`."""
        self._came = False
        signal.signal(signal.SIGTERM, self._handle)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, *_: object) -> None:
        self._came = True

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self._came


def write_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Writes the history as CSV, one row for each epoch."""
    with replacing(path) as new:
        pd.DataFrame(history).to_csv(
            new, columns=HISTORY_COLUMNS, index=False, float_format="%.6f", lineterminator="\n"
        )


if __name__ == "__main__":
    run_stage("train", main)
