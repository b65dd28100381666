"""The formats that `export` writes: how a network gets there, and how the result is run."""

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import onnxruntime
import tensorflow as tf
import tf2onnx
from ai_edge_litert.interpreter import Interpreter
from onnx import GraphProto

from stages.networks.model_file import prediction_function
from stages.stage import StageError

Images = npt.NDArray[np.uint8]
# From images uint8 [batch, size, size, 3] to classes uint8 [batch, size, size].
Classify = Callable[[Images], Images]
# Of 2023: runtimes of that year and newer read it.
ONNX_OPSET = 18


class Format(NamedTuple):
    """How a format is stored and loaded."""

    file: str  # or folder
    load: Callable[[Path], Classify]


def convert(
    model: keras.Model, network: str, formats: Sequence[str], folder: Path, images: Images
) -> dict[str, Path]:
    """Write a network in several formats; the same network gives the same bytes.

    `model` gives logits for images [batch, size, size, 3] in [0, 255]; the files have the name
    `network`; `images`, uint8 [image, size, size, 3] of the training split, set the range of int8's
    values. Raises StageError where a converter fails.
    """
    # `keras.Model.export` would trace and save the network again for each format, in two to four
    # times the processor time, and its ONNX differs from process to process.
    model = in_float32(model)
    logits = tf.function(lambda image: {"logits": model(image, training=False)}, autograph=False)
    paths = {name: folder / FORMATS[name].file.format(network=network) for name in formats}
    with tempfile.TemporaryDirectory() as single:
        for name, path in paths.items():
            try:
                if name == "saved_model":
                    _write_saved_model(model, logits, path)
                elif name == "onnx":
                    _write_onnx(model, logits, path)
                else:
                    _write_litert(model, logits, Path(single), name, images, path)
            except (OSError, MemoryError, tf.errors.OpError):  # such as a full disk
                raise
            except Exception as error:  # of many types: ConverterError, ValueError, RuntimeError
                raise StageError(
                    f"the network cannot be converted to {name}:"
                    f" {str(error).partition(chr(10))[0]}; leave {name} out of export.formats in"
                    " params.yaml"
                ) from error
    return paths


def in_float32(model: keras.Model) -> keras.Model:
    """The network in float32, whatever precision it was trained with: LiteRT has no other."""
    plain, changes = re.subn(r"\bmixed_b?float16\b", "float32", model.to_json())
    if not changes:
        return model
    same = keras.models.model_from_json(plain)
    same.set_weights(model.get_weights())
    return same


def _write_saved_model(model: keras.Model, logits: Any, path: Path) -> None:
    """Write a SavedModel from photographs uint8 [batch, height, width, 3] of any size.

    It gives, at that size, `mask` uint8 and `confidence` float32 [batch, height, width]. It resizes
    as Pillow does except for rounding: Pillow rounds after each axis, so values differ by up to 1.
    """
    size = model.input_shape[1]

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.round(tf.image.resize(images, (size, size), "bilinear", antialias=True))
        probabilities = tf.nn.softmax(logits(image)["logits"])
        own = tf.image.resize(probabilities, tf.shape(images)[1:3], "bilinear", antialias=True)
        return {
            "mask": tf.cast(tf.argmax(own, axis=-1), tf.uint8),
            "confidence": tf.reduce_max(own, axis=-1),
        }

    spec = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    _save(model, tf.function(serve, [spec], autograph=False), path)


def _save(model: keras.Model, serve: Any, path: Path) -> None:
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    (path / "fingerprint.pb").unlink(missing_ok=True)  # holds a random number; nothing needs it


def _write_litert(
    model: keras.Model, logits: Any, single: Path, name: str, images: Images, path: Path
) -> None:
    """Write LiteRT for one image at a time; `single` is a folder that all LiteRT formats share."""
    if not any(single.iterdir()):
        spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="image")
        _save(model, logits.get_concrete_function(spec), single)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(single))
    if name != "litert_float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "litert_float16":
        converter.target_spec.supported_types = [tf.float16]
    if name == "litert_int8":
        floats = images[:, None].astype(np.float32)
        converter.representative_dataset = lambda: ([image] for image in floats)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8  # an image goes in as it is
    path.write_bytes(converter.convert())


def _write_onnx(model: keras.Model, logits: Any, path: Path) -> None:
    """Write ONNX: `image` float32 [batch, size, size, 3] in [0, 255] to `logits`."""
    spec = tf.TensorSpec(model.input_shape, tf.float32, name="image")
    network, _ = tf2onnx.convert.from_function(logits, [spec], opset=ONNX_OPSET)
    for value in (*network.graph.input, *network.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    _rename(network.graph)
    path.write_bytes(network.SerializeToString(deterministic=True))


def _rename(graph: GraphProto) -> None:
    """Name by place what the converter numbers in the random order of Python's sets."""
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
    graph.doc_string = ""  # it has the number of the traced function


def load_keras(model: keras.Model) -> Classify:
    """The network as `evaluate` runs it, compiled."""
    logits = tf.function(prediction_function(model, False), reduce_retracing=True, autograph=False)
    return lambda images: _classes(logits(tf.constant(images)).numpy())


def _load_saved_model(path: Path) -> Classify:
    # Kept whole: a function of it does not keep the variables that it reads.
    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images))["mask"].numpy()


def _load_onnx(path: Path) -> Classify:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: _classes(session.run(None, {"image": images.astype(np.float32)})[0])


def _load_litert(path: Path) -> Classify:
    run = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    dtype = run.get_input_details()["image"]["dtype"]

    def classify(images: Images) -> Images:  # one by one, as on a phone
        logits = [run(image=image[None].astype(dtype))["logits"] for image in images]
        return _classes(np.concatenate(logits))

    return classify


def _classes(logits: npt.NDArray[np.float32]) -> Images:
    return logits.argmax(axis=-1).astype(np.uint8)


# What `export.formats` of params.yaml may name.
FORMATS = {
    "saved_model": Format("saved_model", _load_saved_model),
    "litert_float32": Format("{network}.float32.tflite", _load_litert),
    "litert_float16": Format("{network}.float16.tflite", _load_litert),
    # Weights in int8, values in float32 (LiteRT: dynamic range quantization).
    "litert_dynamic": Format("{network}.dynamic.tflite", _load_litert),
    "litert_int8": Format("{network}.int8.tflite", _load_litert),
    "onnx": Format("{network}.onnx", _load_onnx),
}
