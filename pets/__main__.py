"""The `pets` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pets.predict import ENDINGS, predict
from stages.stage import StageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default the process' own, and returns the exit status.

    It is 1 if a photograph could not be predicted or nothing could be done, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "predict":
            return predict(options)
        try:
            from pets.app import serve  # noqa: PLC0415
        except ImportError as error:
            remedy = "pip install 'pet-segmentation[app]'"
            raise StageError(f"the page needs {error.name}: {remedy}") from error
        return serve(options)
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
        " background), and a line of JSON: beside the photograph and on standard output, or with"
        " --out in a folder, the lines in its predictions.jsonl."
    )
    predict = commands.add_parser("predict", help="segment photographs", description=text)
    add = predict.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="files, folders, globs, or - for standard input")
    add("--out", type=Path, metavar="DIR", help="where to write")
    add("--network", default="unet", help="unet (the default) or conv_deconv, small and worse")
    text = f"only some of {','.join(ENDINGS)}"
    add("--write", type=_outputs, default=[*ENDINGS], metavar="KIND,...", help=text)
    text = "mean over the photograph and its mirror image: twice the time"
    add("--flip", action="store_true", help=text)
    add("--force", action="store_true", help="overwrite existing files")
    text = "Serves this machine alone. POST /mask?network=NAME takes a photograph, gives a PNG."
    app = commands.add_parser("app", help="a page to drop photographs on", description=text)
    app.add_argument("--port", type=int, default=7860)
    text = "the exports of a workspace's models folder"
    add("--models", type=Path, metavar="DIR", help=f"take the network from {text}")
    app.add_argument("--models", type=Path, metavar="DIR", help=f"show {text} too")
    return parser


def _outputs(text: str) -> list[str]:
    chosen = text.split(",")
    if not set(chosen) <= set(ENDINGS):
        raise argparse.ArgumentTypeError(f"choose from {', '.join(ENDINGS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
