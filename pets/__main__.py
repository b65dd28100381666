"""The `pets` command. What a subcommand needs is imported when it runs: `--help` is instant."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stages.stage import StageError

# Beside the package, so that the command works in any folder.
MODELS_FOLDER = Path(__file__).resolve().parents[1] / "models"
OUTPUTS = ("mask", "overlay", "cutout")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default the process' own.

    Returns:
        0; 1 if a photograph could not be predicted or nothing could be done; 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "predict":
            from pets.predict import predict as run  # noqa: PLC0415
        else:
            from pets.app import serve as run  # noqa: PLC0415
        return run(options)
    except KeyboardInterrupt:
        print("pets: interrupted; every file that was written is complete", file=sys.stderr)
        return 130
    except (StageError, OSError) as error:
        print(f"pets: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pets", description="Segments photographs of pets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = (
        "Writes for each photograph, at its own size, NAME.mask.png (a palette PNG: 0 pet,"
        " 1 background, 2 border), NAME.overlay.jpg, NAME.cutout.png (the pet on a transparent"
        " background), and a line of predictions.jsonl."
    )
    predict = commands.add_parser("predict", help="segment photographs", description=text)
    add = predict.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="files, folders, globs, or - for standard input")
    add("--out", type=Path, required=True, metavar="DIR", help="where to write")
    add("--network", default="unet", help="a trained network (default: unet)")
    text = f"only some of {','.join(OUTPUTS)}"
    add("--write", type=_outputs, default=OUTPUTS, metavar="KIND,...", help=text)
    text = "mean over the photograph and its mirror image: twice the time"
    add("--flip", action="store_true", help=text)
    text = "auto: the LiteRT export, which starts at once, or Keras if none is of this network"
    add("--runtime", choices=("auto", "keras", "litert"), default="auto", help=text)
    add("--force", action="store_true", help="overwrite existing files")
    text = "Serves this machine alone. POST /mask?network=NAME takes a photograph, gives a PNG."
    app = commands.add_parser("app", help="a page to drop photographs on", description=text)
    app.add_argument("--port", type=int, default=7860)
    for command in (predict, app):
        command.add_argument("--models", type=Path, default=MODELS_FOLDER, metavar="DIR")
    return parser


def _outputs(text: str) -> list[str]:
    chosen = text.split(",")
    if not set(chosen) <= set(OUTPUTS):
        raise argparse.ArgumentTypeError(f"choose from {', '.join(OUTPUTS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
