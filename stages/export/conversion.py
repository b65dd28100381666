"""A trained network in the forms that run without Keras: SavedModel, LiteRT and ONNX."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tf2onnx
from onnx import GraphProto

from stages.export.export_files import FILES
from stages.native_notes import without_notes
from stages.stage import StageError, starved

# Of 2023: runtimes of that year and newer read it.
ONNX_OPSET = 18


def convert(
    model: keras.Model,
    network: str,
    formats: Sequence[str],
    folder: Path,
    pictures: npt.NDArray[np.uint8],
) -> dict[str, Path]:
    """Writes a network in several formats.

    Args:
        model: From images [batch, size, size, 3] in [0, 255] to logits.
        network: Its name, which the files have.
        formats: Keys of FILES.
        folder: An existing folder.
        pictures: Training pictures uint8 [picture, size, size, 3]; the ranges of the values that
            they cause are what int8 is spread over.

    Returns:
        By format, its file, or its folder in the case of SavedModel.

    Raises:
        StageError: A converter does not know what to do with the network.
    """
    model = in_float32(model)
    paths = {name: folder / FILES[name].format(network=network) for name in formats}
    if "saved_model" in formats:
        _guarded("saved_model", lambda: saved_model(model, paths["saved_model"]))
    if "onnx" in formats:
        _guarded("onnx", lambda: onnx(model, paths["onnx"]))
    kinds = [name for name in formats if name.startswith("litert_")]
    if kinds:
        with tempfile.TemporaryDirectory() as scratch:
            # One for all of them: to make it takes as long as to convert it.
            _guarded(kinds[0], lambda: _single_picture(model, Path(scratch)))
            for name in kinds:
                content = _guarded(name, lambda: _litert(Path(scratch), name, pictures))  # noqa: B023
                paths[name].write_bytes(content)
    return paths


def in_float32(model: keras.Model) -> keras.Model:
    """A network that computes in float32, whatever precision it was trained with.

    LiteRT has no layers in mixed precision; the weights are float32 in any case.

    Args:
        model: A functional model; models within it are too.
    """
    if all(layer.compute_dtype == "float32" for layer in _layers(model)):
        return model

    def rebuilt(operation: keras.Operation) -> keras.Operation:
        # One that is no layer, such as a sum, has the precision of what goes in.
        dtype = {"dtype": "float32"} if isinstance(operation, keras.Layer) else {}
        return operation.__class__.from_config(operation.get_config() | dtype)

    same = keras.models.clone_model(model, clone_function=rebuilt, recursive=True)
    same.set_weights(model.get_weights())
    return same


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def saved_model(model: keras.Model, folder: Path) -> None:
    """Writes a SavedModel that takes photographs as they are.

    Its signature `serving_default` takes uint8 [batch, height, width, 3] of any height and width
    and gives, at that size, `mask` uint8 [batch, height, width] and `confidence` float32
    [batch, height, width]. It resizes as Pillow does, but for rounding: Pillow rounds after each
    axis, so that values differ by up to 1.
    """
    size = model.input_shape[1]

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pictures = tf.round(tf.image.resize(images, (size, size), "bilinear", antialias=True))
        probabilities = tf.nn.softmax(model(pictures, training=False))
        own = tf.image.resize(probabilities, tf.shape(images)[1:3], "bilinear", antialias=True)
        return {
            "mask": tf.cast(tf.argmax(own, axis=-1), tf.uint8),
            "confidence": tf.reduce_max(own, axis=-1),
        }

    _save(model, serve, tf.TensorSpec((None, None, None, 3), tf.uint8, name="images"), folder)


def onnx(model: keras.Model, path: Path) -> None:
    """Writes ONNX: `image` float32 [batch, size, size, 3] in [0, 255] to `logits`."""
    size = model.input_shape[1]
    network, _ = tf2onnx.convert.from_function(
        tf.function(lambda image: {"logits": model(image, training=False)}, autograph=False),
        [tf.TensorSpec((None, size, size, 3), tf.float32, name="image")],
        opset=ONNX_OPSET,
    )
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _rename(network.graph)
    path.write_bytes(network.SerializeToString(deterministic=True))


def _rename(graph: GraphProto) -> None:
    """Names the values, and the nodes that the converter added, by their place in the graph.

    It numbers what it adds in the order of Python's sets, which is another in each process, and of
    equal constants it keeps one or the other.
    """
    names = {"": ""} | {value.name: value.name for value in (*graph.input, *graph.output)}

    def by_place(name: str) -> str:
        return names.setdefault(name, f"value_{len(names)}")

    for place, node in enumerate(graph.node):
        if re.search(r"__\d+$", node.name):
            node.name = f"{node.op_type}_{place}"
        node.input[:] = [by_place(name) for name in node.input]
        node.output[:] = [by_place(name) for name in node.output]
    for value in (*graph.initializer, *graph.value_info):
        value.name = by_place(value.name)
    order = list(names.values())
    graph.initializer.sort(key=lambda value: order.index(value.name))
    graph.doc_string = ""  # it has the number of the function that was traced


def _litert(single_picture: Path, name: str, pictures: npt.NDArray[np.uint8]) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(single_picture))
    if name == "litert_float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif name == "litert_int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            [picture[None].astype(np.float32)] for picture in pictures
        )
        # A picture goes in as it is.
        converter.inference_input_type = tf.uint8
    with without_notes():
        content: bytes = converter.convert()
    return content


def _single_picture(model: keras.Model, folder: Path) -> None:
    """A SavedModel of the bare network for one picture, which is what a phone has at a time."""

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": model(image, training=False)}

    size = model.input_shape[1]
    _save(model, serve, tf.TensorSpec((1, size, size, 3), tf.float32, name="image"), folder)


def _save(
    model: keras.Model,
    serve: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    signature: tf.TensorSpec,
    folder: Path,
) -> None:
    # With the bare variables: Keras' ExportArchive also writes a function for each layer, which
    # takes the U-Net three times as long, and the converters twice as long to read.
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    module.serve = tf.function(serve, [signature], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    # It holds a random number, and nothing needs it: the same network shall give the same bytes.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def _guarded(name: str, converting: Callable[[], bytes | None]) -> bytes:
    try:
        return converting() or b""
    # Converters raise whatever they stumble over: ConverterError, ValueError, RuntimeError.
    except Exception as error:
        if starved(error):  # a full disk is no fault of the converter
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(
            f"the network cannot be converted to {name}: {reason};"
            f" leave {name} out of export.formats in params.yaml"
        ) from error


def size_in_bytes(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
