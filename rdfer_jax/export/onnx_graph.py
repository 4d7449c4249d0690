"""An ONNX graph under construction, and the values in it.

Broadcasts are kept pending, because almost every ONNX operator broadcasts by itself: a Value knows the
shape that it stands for, and the shape that it has, where what is still to be repeated has length 1.

One dimension, the batch, may be symbolic. The lengths that derive from it are its multiples.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from jax import export as jax_export
from onnx import helper, numpy_helper

#: Version of the operators. A later one would exclude older runtimes, and nothing in it is needed.
OPSET, IR_VERSION = 17, 9
#: Name of the symbolic dimension.
BATCH = "B"


class NotExportableError(ValueError):
    """The network has an operation that has no rule here; the message names it."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the graph, or a constant.

    Attributes:
      source: the name of the tensor; or the constant, a NumPy array.
      shape: of what it stands for.
      kept: of what is there, 1 where it is to be repeated.
      dtype: NumPy's.
    """

    source: Any
    shape: tuple[Any, ...]
    kept: tuple[Any, ...]
    dtype: Any

    @property
    def is_constant(self) -> bool:
        """Whether the value is known."""
        return not isinstance(self.source, str)

    @property
    def is_full(self) -> bool:
        """Whether nothing is to be repeated."""
        return self.shape == self.kept


def constant(array: Any, shape: Sequence[Any] | None = None) -> Value:
    """Returns a known value, which stands for `shape` if that is given."""
    kept = tuple(array.shape)
    return Value(array, kept if shape is None else tuple(shape), kept, array.dtype)


class Graph:
    """Collects nodes and weights."""

    def __init__(self, input_name: str, shape: Sequence[Any], dtype: Any):
        """Takes the one input, whose first dimension is the batch."""
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, np.ndarray] = {}
        self._multiples: dict[str, str] = {}
        self._input = helper.make_tensor_value_info(input_name, _onnx_type(dtype), _dims(shape))
        self.input = Value(input_name, tuple(shape), tuple(shape), np.dtype(dtype))

    def node(
        self,
        operator: str,
        inputs: Sequence[Value],
        shape: Sequence[Any],
        dtype: Any,
        *,
        kept: Sequence[Any] | None = None,
        **attributes: Any,
    ) -> Value:
        """Adds a node with one output, and returns that.

        Args:
          operator: its name in ONNX.
          inputs: in order.
          shape: that the output stands for.
          dtype: of the output.
          kept: that the output has; the same if None.
          attributes: of the operator.
        """
        (value,) = self.nodes(operator, inputs, [tuple(shape)], dtype, **attributes)
        return value if kept is None else dataclasses.replace(value, kept=tuple(kept))

    def nodes(
        self,
        operator: str,
        inputs: Sequence[Value],
        shapes: Sequence[tuple[Any, ...]],
        dtype: Any,
        **attributes: Any,
    ) -> list[Value]:
        """Adds a node with several outputs; see node."""
        names = [f"{operator}_{len(self._nodes)}_{i}" for i in range(len(shapes))]
        sources = [self.name(value) for value in inputs]
        self._nodes.append(helper.make_node(operator, sources, names, names[0], **attributes))
        return [
            Value(name, shape, shape, np.dtype(dtype))
            for name, shape in zip(names, shapes, strict=True)
        ]

    def name(self, value: Value) -> str:
        """Returns the name of a value as it is kept; a constant becomes a weight, each one once."""
        if not value.is_constant:
            return value.source
        array = np.ascontiguousarray(np.asarray(value.source)).reshape(np.shape(value.source))
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        sides = "x".join(map(str, array.shape)) or "scalar"
        name = f"{array.dtype}_{sides}_{digest}"
        self._weights[name] = array
        return name

    def integers(self, numbers: Sequence[int]) -> Value:
        """Returns int64 numbers, as operators take axes and shapes."""
        return constant(np.array(numbers, np.int64))

    def full(self, value: Value) -> Value:
        """Returns the value with nothing left to be repeated."""
        if value.is_full:
            return value
        if value.is_constant and all(isinstance(side, int) for side in value.shape):
            return constant(np.broadcast_to(np.asarray(value.source), value.shape))
        # A length of 1 leaves the dimension as it is: the batch, where it is there.
        wanted = [
            1 if side == kept and not isinstance(side, int) else side
            for side, kept in zip(value.shape, value.kept, strict=True)
        ]
        return self.node("Expand", [value, self._lengths(wanted)], value.shape, value.dtype)

    def reshape(self, value: Value, kept: Sequence[Any], shape: Sequence[Any]) -> Value:
        """Returns the value reshaped to have `kept` and stand for `shape`."""
        kept, shape = tuple(kept), tuple(shape)
        if value.kept == kept:
            return dataclasses.replace(value, shape=shape)
        if value.is_constant:
            return constant(np.asarray(value.source).reshape(kept), shape)
        symbolic = [side for side in kept if not isinstance(side, int)]
        if len(symbolic) > 1:
            raise NotExportableError(f"a shape with several unknown lengths, {kept}")
        target = self.integers([side if isinstance(side, int) else -1 for side in kept])
        return self.node("Reshape", [value, target], shape, value.dtype, kept=kept)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Returns the value with its axes in another order."""
        order = tuple(int(axis) for axis in order)
        if order == tuple(range(len(order))):
            return value
        shape, kept = (tuple(sides[axis] for axis in order) for sides in (value.shape, value.kept))
        if value.is_constant:
            return constant(np.asarray(value.source).transpose(order), shape)
        return self.node("Transpose", [value], shape, value.dtype, kept=kept, perm=order)

    def cast(self, value: Value, dtype: Any) -> Value:
        """Returns the value in another dtype."""
        if value.dtype == dtype:
            return value
        if value.is_constant:
            return constant(np.asarray(value.source).astype(dtype), value.shape)
        return self.node("Cast", [value], value.shape, dtype, kept=value.kept, to=_onnx_type(dtype))

    def model(self, outputs: Mapping[str, Value]) -> onnx.ModelProto:
        """Returns the finished model, with the nodes and weights that the outputs need."""
        infos = []
        for name, value in outputs.items():
            found = self.full(value)
            self._nodes.append(helper.make_node("Identity", [self.name(found)], [name], name))
            infos.append(
                helper.make_tensor_value_info(name, _onnx_type(value.dtype), _dims(value.shape))
            )
        needed = set(outputs)
        nodes = []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                nodes.append(node)
                needed |= set(node.input)
        weights = [
            numpy_helper.from_array(array, name)
            for name, array in self._weights.items()
            if name in needed
        ]
        graph = helper.make_graph(nodes[::-1], "rdfer", [self._input], infos, weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        model.producer_name = "rdfer_jax"
        return model

    def _lengths(self, shape: Sequence[Any]) -> Value:
        """Returns a shape as a tensor, int64 [rank]; its parts that depend on the batch are computed."""
        if all(isinstance(side, int) for side in shape):
            return self.integers([int(side) for side in shape])
        parts = [
            self.integers([side]) if isinstance(side, int) else self._multiple(side)
            for side in shape
        ]
        return self.node("Concat", parts, (len(shape),), np.int64, axis=0)

    def _multiple(self, side: Any) -> Value:
        """Returns a multiple of the batch's length, int64 [1]."""
        match = re.fullmatch(rf"(?:(\d+)\*)?{BATCH}", str(side))
        if not match:
            raise NotExportableError(f"a length of {side}, which is no multiple of the batch")
        if str(side) not in self._multiples:
            shape = self.node("Shape", [self.input], (len(self.input.shape),), np.int64)
            batch = self.node("Gather", [shape, self.integers([0])], (1,), np.int64, axis=0)
            if match[1]:
                factor = self.integers([int(match[1])])
                batch = self.node("Mul", [batch, factor], (1,), np.int64)
            self._multiples[str(side)] = batch.source
        return Value(self._multiples[str(side)], (1,), (1,), np.dtype(np.int64))


def _onnx_type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _dims(shape: Sequence[Any]) -> list[int | str]:
    return [side if isinstance(side, int) else str(side) for side in shape]


def batch() -> Any:
    """Returns the symbolic length of the batch."""
    return jax_export.symbolic_shape(BATCH)[0]
