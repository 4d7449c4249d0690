"""BlazeFace as ONNX: its TFLite file, converted operator by operator.

The weights stay float16, as they are stored, and are cast to float32 in the graph. TFLite has channels last
and ONNX second, so convolutions, pooling and padding are turned; before a reshape the order is turned back.

    input       float32 [B, 3, 128, 128], see faces.blazeface.network_input
    regressors  float32 [B, 896, 16], classificators float32 [B, 896, 1]: see faces.blazeface.decode
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rdfer_jax.faces import blazeface
from rdfer_jax.web import tflite
from rdfer_jax.web.tflite import Graph, Operator, Table

#: Of ONNX; old enough for every runtime in use.
OPSET, IR_VERSION = 17, 8


def blazeface_onnx() -> bytes:
    """Returns the network of faces.blazeface as an ONNX file."""
    return convert(tflite.read(blazeface.MODEL.read_bytes()))


def convert(graph: Graph) -> bytes:
    """Returns an ONNX file that computes the same as a TFLite graph, for any number of pictures."""
    converter = _Converter(graph)
    for operator in graph.operators:
        converter.add(operator)
    names = [graph.tensors[i].name for i in graph.inputs]
    shapes = [graph.tensors[i].shape for i in graph.inputs]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", channels, height, width])
        for name, (_, height, width, channels) in zip(names, shapes, strict=True)
    ]
    outputs = [
        helper.make_tensor_value_info(
            graph.tensors[i].name, TensorProto.FLOAT, ["B", *graph.tensors[i].shape[1:]]
        )
        for i in graph.outputs
    ]
    made = helper.make_graph(converter.nodes, "blazeface", inputs, outputs, converter.constants)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="rdfer_jax"
    )
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Converter:
    """Collects the nodes and constants."""

    def __init__(self, graph: Graph):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._graph = graph
        self._values = {i: t.values for i, t in enumerate(graph.tensors) if t.values is not None}

    def add(self, operator: Operator) -> None:
        """Converts an operator."""
        convert: Callable[[Operator], None] = getattr(self, f"_{operator.kind}")
        convert(operator)

    def _name(self, index: int) -> str:
        return self._graph.tensors[index].name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def _weights(self, index: int, values: np.ndarray) -> str:
        """Adds weights, and returns their name as float32."""
        name = self._name(index)
        if values.dtype != np.float16:
            return self._constant(name, values)
        self._node("Cast", [self._constant(f"{name}_16", values)], name, to=TensorProto.FLOAT)
        return name

    def _dequantize(self, operator: Operator) -> None:
        self._values[operator.outputs[0]] = self._values[operator.inputs[0]]

    def _conv_2d(self, operator: Operator) -> None:
        weights = self._values[operator.inputs[1]].transpose(0, 3, 1, 2)  # [out, H, W, in]
        self._convolution(operator, weights, (1, 2), 1)

    def _depthwise_conv_2d(self, operator: Operator) -> None:
        weights = self._values[operator.inputs[1]].transpose(3, 0, 1, 2)  # [1, H, W, channels]
        self._convolution(operator, weights, (1, 2), len(weights))

    def _convolution(
        self, operator: Operator, weights: np.ndarray, strides: tuple[int, int], group: int
    ) -> None:
        source, kernel, bias = operator.inputs
        options = _options(operator)
        self._node(
            "Conv",
            [
                self._name(source),
                self._weights(kernel, weights),
                self._weights(bias, self._values[bias]),
            ],
            self._name(operator.outputs[0]),
            group=group,
            **_windows(options, strides),
        )

    def _max_pool_2d(self, operator: Operator) -> None:
        options = _options(operator)
        size = [options.scalar(4, "i"), options.scalar(3, "i")]
        self._node(
            "MaxPool",
            [self._name(operator.inputs[0])],
            self._name(operator.outputs[0]),
            kernel_shape=size,
            **_windows(options, (1, 2)),
        )

    def _pad(self, operator: Operator) -> None:
        output = self._name(operator.outputs[0])
        before_after = self._values[operator.inputs[1]][[0, 3, 1, 2]].T.astype(np.int64)
        pads = self._constant(f"{output}_pads", before_after.reshape(-1))
        self._node("Pad", [self._name(operator.inputs[0]), pads], output)

    def _add(self, operator: Operator) -> None:
        self._elementwise("Add", operator)

    def _relu(self, operator: Operator) -> None:
        self._elementwise("Relu", operator)

    def _elementwise(self, kind: str, operator: Operator) -> None:
        inputs = [self._name(i) for i in operator.inputs]
        self._node(kind, inputs, self._name(operator.outputs[0]))

    def _reshape(self, operator: Operator) -> None:
        source, output = self._name(operator.inputs[0]), self._name(operator.outputs[0])
        shape = self._graph.tensors[operator.outputs[0]].shape
        self._node("Transpose", [source], f"{output}_turned", perm=[0, 2, 3, 1])
        wanted = self._constant(f"{output}_shape", np.array([0, *shape[1:]], np.int64))
        self._node("Reshape", [f"{output}_turned", wanted], output)

    def _concatenation(self, operator: Operator) -> None:
        inputs = [self._name(i) for i in operator.inputs]
        axis = _options(operator).scalar(0, "i")
        self._node("Concat", inputs, self._name(operator.outputs[0]), axis=axis)


def _options(operator: Operator) -> Table:
    assert operator.options is not None
    return operator.options


def _windows(options: Table, strides: tuple[int, int]) -> dict[str, Any]:
    """Returns the attributes of a convolution or pooling; TFLite's SAME is ONNX's SAME_UPPER."""
    across, down = (options.scalar(field, "i") for field in strides)
    same = options.scalar(0, "b") == 0
    return {"strides": [down, across], "auto_pad": "SAME_UPPER" if same else "VALID"}
