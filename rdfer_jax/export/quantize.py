"""Weights of an ONNX model as int8; what is computed stays float32."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Axis of the output channels, by the operator that reads the weights as its second input.
_CHANNELS = {"Conv": 0, "MatMul": 1}
#: Smaller weights stay as they are, numbers.
LEAST = 1024


def int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with the kernels of convolutions and matrix products as int8.

    Each output channel has a scale of its own, its largest magnitude / 127. The runtime multiplies by it,
    when it loads the model or later.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {weight.name: weight for weight in graph.initializer}
    replaced: dict[tuple[str, int], str] = {}
    added = []
    for node in graph.node:
        axis = _CHANNELS.get(node.op_type)
        if axis is None or node.input[1] not in arrays:
            continue
        name = node.input[1]
        weights = numpy_helper.to_array(arrays[name])
        if weights.dtype != np.float32 or weights.size < LEAST or weights.ndim <= axis:
            continue
        if (name, axis) not in replaced:
            others = tuple(a for a in range(weights.ndim) if a != axis)
            scale = np.abs(weights).max(axis=others) / 127
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            sides = [-1 if a == axis else 1 for a in range(weights.ndim)]
            small = np.rint(weights / scale.reshape(sides)).astype(np.int8)
            parts = {"int8": small, "scale": scale, "zero": np.zeros(len(scale), np.int8)}
            names = [f"{name}_{axis}_{part}" for part in parts]
            graph.initializer.extend(
                numpy_helper.from_array(array, full)
                for full, array in zip(names, parts.values(), strict=True)
            )
            output = f"{name}_{axis}_restored"
            added.append(helper.make_node("DequantizeLinear", names, [output], axis=axis))
            replaced[name, axis] = output
        node.input[1] = replaced[name, axis]
    nodes = [*added, *graph.node]
    used = {name for node in nodes for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    for field, items in (("node", nodes), ("initializer", kept)):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)
    return result
