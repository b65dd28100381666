"""The `pets` command. TensorFlow is imported when a picture is predicted, and not before."""

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
        0, or 1 if a picture could not be predicted or nothing could be done, or 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print("pets: interrupted; what is written is whole", file=sys.stderr)
        return 130
    except OSError as error:  # a full disk, a folder that may not be written to
        place = f"{error.filename}: " if error.filename else ""
        print(f"pets: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pets", description="Finds the pet in photographs: pet, background and border."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="mask, overlay and cut-out of photographs",
        description=(
            "Writes for each photograph, at its own size: NAME.mask.png (a palette PNG of 0 pet,"
            " 1 background, 2 border), NAME.overlay.jpg, NAME.cutout.png (the pet on a transparent"
            " background), and a line of predictions.jsonl."
        ),
    )
    predict.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="files, folders, globs, or - for standard input"
    )
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    predict.add_argument("--network", default="unet", help="a trained network (default: unet)")
    predict.add_argument(
        "--write",
        type=_outputs,
        default=OUTPUTS,
        metavar="KIND,...",
        help=f"only some of {','.join(OUTPUTS)}",
    )
    predict.add_argument(
        "--flip",
        action="store_true",
        help="mean over the picture and its mirror image: twice the time",
    )
    predict.add_argument(
        "--runtime",
        choices=("auto", "keras", "litert"),
        default="auto",
        help=(
            "litert runs the export, which starts in less than a second; keras waits seconds for"
            " TensorFlow; auto (the default) takes the export if it is of this very network"
        ),
    )
    predict.add_argument("--force", action="store_true", help="overwrite what is there")
    _add_models(predict)
    predict.set_defaults(run=_predict)

    serve = commands.add_parser(
        "serve",
        help="a network behind HTTP, by MLflow",
        description=(
            "Registers a network with MLflow, once, and serves it on this machine alone: POST"
            ' {"inputs": [base64 of a photograph]} to /invocations gives the base64 of its mask.'
        ),
    )
    serve.add_argument("--network", default="unet", help="a trained network (default: unet)")
    serve.add_argument("--port", type=int, default=5001)
    _add_models(serve)
    serve.set_defaults(run=_serve)

    app = commands.add_parser(
        "app",
        help="a page to drop photographs on",
        description="Serves a page on this machine alone that shows what each network makes of it.",
    )
    app.add_argument("--port", type=int, default=7860)
    app.add_argument("--no-browser", action="store_true", help="do not open it")
    _add_models(app)
    app.set_defaults(run=_app)
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        type=Path,
        default=MODELS_FOLDER,
        metavar="DIR",
        help="the folder of NETWORK.keras (default: the repository's models/)",
    )


def _outputs(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(OUTPUTS)):
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown))} is not allowed; choose of {', '.join(OUTPUTS)}"
        )
    return tuple(kind for kind in OUTPUTS if kind in chosen)


def _predict(options: argparse.Namespace) -> int:
    from pets.predict import predict  # noqa: PLC0415  `pets --help` need not wait for Pillow

    return predict(
        options.photos,
        options.out,
        network=options.network,
        models=options.models,
        kinds=options.write,
        flip=options.flip,
        runtime=options.runtime,
        force=options.force,
    )


def _serve(options: argparse.Namespace) -> int:
    from pets.serve import serve  # noqa: PLC0415

    return serve(options.models, options.network, options.port)


def _app(options: argparse.Namespace) -> int:
    from pets.app import serve  # noqa: PLC0415

    return serve(options.models, options.port, browser=not options.no_browser)


if __name__ == "__main__":
    sys.exit(main())
