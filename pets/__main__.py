"""The `pets` command. What a subcommand needs is imported when it runs: `--help` is instant."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Beside the package, so that the command works in any folder.
MODELS_FOLDER = Path(__file__).resolve().parents[1] / "models"
OUTPUTS = ("mask", "overlay", "cutout")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Those after the command's name; by default the process' own.

    Returns:
        0; 1 if a photograph could not be predicted or nothing could be done; 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print("pets: interrupted; every file that was written is complete", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, a folder without the right to write, a port in use
        place = f"{error.filename}: " if error.filename else ""
        print(f"pets: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pets", description="Segments photographs of pets: pet, background and border."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="mask, overlay and cut-out of photographs",
        description=(
            "Writes for each photograph, at its own size: NAME.mask.png (a palette PNG: 0 pet,"
            " 1 background, 2 border), NAME.overlay.jpg, NAME.cutout.png (the pet on a transparent"
            " background), and a line of predictions.jsonl."
        ),
    )
    add = predict.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="files, folders, globs, or - for standard input")
    add("--out", type=Path, required=True, metavar="DIR", help="where to write")
    add("--network", default="unet", help="a trained network (default: unet)")
    add("--write", type=_outputs, default=OUTPUTS, metavar="KIND,...",
        help=f"only some of {','.join(OUTPUTS)}")  # fmt: skip
    add("--flip", action="store_true",
        help="mean over the photograph and its mirror image: twice the time")  # fmt: skip
    add("--runtime", choices=("auto", "keras", "litert"), default="auto",
        help="litert runs the export, which starts in less than a second; keras waits seconds for"
        " TensorFlow; auto (the default) takes the export if it was made from this very"
        " network")  # fmt: skip
    add("--force", action="store_true", help="overwrite existing files")
    predict.set_defaults(run=_predict)
    app = commands.add_parser(
        "app",
        help="a page to drop photographs on, and its HTTP interface",
        description=(
            "Serves on this machine alone: a page that shows what each network makes of a"
            " photograph; and POST /mask?network=NAME, which answers with the mask as a PNG."
        ),
    )
    app.add_argument("--port", type=int, default=7860)
    app.add_argument("--no-browser", action="store_true", help="do not open it")
    app.set_defaults(run=_app)
    for command in (predict, app):
        command.add_argument("--models", type=Path, default=MODELS_FOLDER, metavar="DIR",
                             help="the folder of NETWORK.keras (default: the repository's"
                             " models/)")  # fmt: skip
    return parser


def _outputs(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(OUTPUTS)):
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown))} is not allowed; choose from {', '.join(OUTPUTS)}"
        )
    return tuple(kind for kind in OUTPUTS if kind in chosen)


def _predict(options: argparse.Namespace) -> int:
    from pets.predict import predict  # noqa: PLC0415

    return predict(options)


def _app(options: argparse.Namespace) -> int:
    from pets.app import serve  # noqa: PLC0415

    return serve(options.models, options.port, browser=not options.no_browser)


if __name__ == "__main__":
    sys.exit(main())
