"""What each JAX primitive is in ONNX.

A rule takes the graph, the equation and the values of its inputs, and returns those of its outputs. Only
what evaluated networks need is here; the converter refuses the rest by name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rdfer_jax.export.onnx_graph import Graph, NotExportableError, Value, constant

Rule = Callable[..., list[Value]]

#: Primitives that are one ONNX operator and work element by element.
OPERATORS = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow",
    "neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt", "abs": "Abs",
    "sign": "Sign", "logistic": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil",
    "sin": "Sin", "cos": "Cos", "not": "Not", "and": "And", "or": "Or", "xor": "Xor",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
}  # fmt: skip
_LOGICAL = ("not", "and", "or", "xor")
#: Primitives that change nothing here.
SAME = ("copy", "copy_p", "stop_gradient", "optimization_barrier")
_REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
#: Where a slice without an end ends.
_END = np.iinfo(np.int64).max


def _elementwise(graph: Graph, operator: str, dtype: Any, *values: Value) -> Value:
    """Adds a node that broadcasts its inputs."""
    shape = _together([value.shape for value in values])
    kept = _together([value.kept for value in values])
    return graph.node(operator, values, shape, dtype, kept=kept)


def _together(shapes: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(
        next((side for side in sides if not (isinstance(side, int) and side == 1)), 1)
        for sides in zip(*padded, strict=True)
    )


def _scalar(number: float, dtype: Any) -> Value:
    return constant(np.array(number, dtype))


def _operator(graph: Graph, eqn: Any, *values: Value) -> list[Value]:
    name = eqn.primitive.name
    if name in _LOGICAL and any(value.dtype != bool for value in values):
        raise NotExportableError(f"{name} of integers, bit by bit")
    operator, dtype = OPERATORS[name], eqn.outvars[0].aval.dtype
    if name == "max" and any(_is_zero(value) for value in values):  # which runtimes fuse
        (value,) = [value for value in values if not _is_zero(value)] or values[:1]
        return [_elementwise(graph, "Relu", dtype, value)]
    return [_elementwise(graph, operator, dtype, *values)]


def _is_zero(value: Value) -> bool:
    return value.is_constant and value.dtype == np.float32 and not np.any(np.asarray(value.source))


def _rsqrt(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    return [_elementwise(graph, "Reciprocal", x.dtype, _elementwise(graph, "Sqrt", x.dtype, x))]


def _square(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    return [_elementwise(graph, "Mul", x.dtype, x, x)]


def _integer_pow(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    power = eqn.params["y"]
    if power not in (1, 2, 3):
        return [_elementwise(graph, "Pow", x.dtype, x, _scalar(power, x.dtype))]
    result = x
    for _ in range(power - 1):
        result = _elementwise(graph, "Mul", x.dtype, result, x)
    return [result]


def _erfc(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    erf = _elementwise(graph, "Erf", x.dtype, x)
    return [_elementwise(graph, "Sub", x.dtype, _scalar(1, x.dtype), erf)]


def _log1p(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    more = _elementwise(graph, "Add", x.dtype, x, _scalar(1, x.dtype))
    return [_elementwise(graph, "Log", x.dtype, more)]


def _ne(graph: Graph, eqn: Any, x: Value, y: Value) -> list[Value]:
    return [_elementwise(graph, "Not", bool, _elementwise(graph, "Equal", bool, x, y))]


def _rem(graph: Graph, eqn: Any, x: Value, y: Value) -> list[Value]:
    shape, kept = _together([x.shape, y.shape]), _together([x.kept, y.kept])
    return [graph.node("Mod", [x, y], shape, x.dtype, kept=kept, fmod=1)]


def _is_finite(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    bad = [_elementwise(graph, operator, bool, x) for operator in ("IsNaN", "IsInf")]
    return [_elementwise(graph, "Not", bool, _elementwise(graph, "Or", bool, *bad))]


def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> list[Value]:
    if which.dtype != bool or len(cases) != 2:
        raise NotExportableError("a choice among more than two values")
    return [_elementwise(graph, "Where", cases[0].dtype, which, cases[1], cases[0])]


def _clamp(graph: Graph, eqn: Any, low: Value, x: Value, high: Value) -> list[Value]:
    above = _elementwise(graph, "Max", x.dtype, x, low)
    return [_elementwise(graph, "Min", x.dtype, above, high)]


def _convert(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    return [graph.cast(x, eqn.params["new_dtype"])]


def _broadcast(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    kept: list[Any] = [1] * len(shape)
    for side, place in zip(x.kept, places, strict=True):
        kept[place] = side
    return [graph.reshape(x, kept, shape)]


def _iota(graph: Graph, eqn: Any) -> list[Value]:
    shape, axis = eqn.params["shape"], eqn.params["dimension"]
    if not isinstance(shape[axis], int):
        raise NotExportableError("a count along the batch")
    kept = [shape[axis] if place == axis else 1 for place in range(len(shape))]
    counts = np.arange(shape[axis], dtype=eqn.params["dtype"])
    return [constant(counts.reshape(kept), shape)]


def _reshape(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    shape = eqn.params["new_sizes"]
    if x.is_constant and np.size(x.source) == 1:
        return [graph.reshape(x, (1,) * len(shape), shape)]
    return [graph.reshape(graph.full(x), shape, shape)]


def _squeeze(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    gone = {axis % len(x.shape) for axis in eqn.params["dimensions"]}
    shape, kept = (
        [side for axis, side in enumerate(sides) if axis not in gone] for sides in (x.shape, x.kept)
    )
    return [graph.reshape(x, kept, shape)]


def _transpose(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    return [graph.transpose(x, eqn.params["permutation"])]


def _slice(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    starts, ends = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    return [cut(graph, x, starts, ends, steps, eqn.outvars[0].aval.shape)]


def cut(
    graph: Graph,
    x: Value,
    starts: Sequence[Any],
    ends: Sequence[Any],
    steps: Sequence[int],
    shape: Sequence[Any],
) -> Value:
    """Returns a part of a value; dimensions that are whole or still to be repeated need no cut."""
    kept = list(x.kept)
    axes = []
    for axis, side in enumerate(x.kept):
        is_pending = side != x.shape[axis]
        is_whole = starts[axis] == 0 and ends[axis] == side and steps[axis] == 1
        if not is_pending and not is_whole:
            axes.append(axis)
            kept[axis] = shape[axis]
    if not axes:
        return graph.reshape(x, kept, shape)
    places = [[of[axis] for axis in axes] for of in (starts, ends)] + [
        axes,
        [steps[axis] for axis in axes],
    ]
    inputs = [graph.integers(numbers) for numbers in places]
    return graph.node("Slice", [x, *inputs], shape, x.dtype, kept=kept)


def _dynamic_slice(graph: Graph, eqn: Any, x: Value, *starts: Value) -> list[Value]:
    if not all(start.is_constant for start in starts):
        raise NotExportableError("a slice that starts where the network says")
    sizes = eqn.params["slice_sizes"]
    first = [
        0 if side == size else int(np.clip(int(np.asarray(start.source)), 0, side - size))
        for start, size, side in zip(starts, sizes, x.shape, strict=True)
    ]
    ends = [start + size for start, size in zip(first, sizes, strict=True)]
    return [cut(graph, x, first, ends, (1,) * len(ends), sizes)]


def _concatenate(graph: Graph, eqn: Any, *values: Value) -> list[Value]:
    shape, axis = eqn.outvars[0].aval.shape, eqn.params["dimension"]
    whole = [graph.full(value) for value in values]
    return [graph.node("Concat", whole, shape, values[0].dtype, axis=axis)]


def _stack(graph: Graph, eqn: Any, *values: Value) -> list[Value]:
    shape, axis = eqn.outvars[0].aval.shape, eqn.params["axis"]
    rows = []
    for value in values:
        sides = (*value.shape[:axis], 1, *value.shape[axis:])
        rows.append(graph.reshape(graph.full(value), sides, sides))
    return [graph.node("Concat", rows, shape, values[0].dtype, axis=axis)]


def _split(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    shapes = [var.aval.shape for var in eqn.outvars]
    inputs = [graph.full(x), graph.integers(eqn.params["sizes"])]
    return graph.nodes("Split", inputs, shapes, x.dtype, axis=eqn.params["axis"])


def _pad(graph: Graph, eqn: Any, x: Value, filling: Value) -> list[Value]:
    config = eqn.params["padding_config"]
    if any(before < 0 or after < 0 or between for before, after, between in config):
        raise NotExportableError("padding between elements, or negative padding")
    amounts = [before for before, _, _ in config] + [after for _, after, _ in config]
    inputs = [graph.full(x), graph.integers(amounts), filling]
    return [graph.node("Pad", inputs, eqn.outvars[0].aval.shape, x.dtype)]


def _rev(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    result = x
    for axis in eqn.params["dimensions"]:
        if x.kept[axis] == 1:
            continue
        backwards = graph.integers(range(x.kept[axis])[::-1])
        result = graph.node("Gather", [result, backwards], x.shape, x.dtype, kept=x.kept, axis=axis)
    return [result]


def _gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> list[Value]:
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, axes = eqn.outvars[0].aval.shape, numbers.start_index_map
    rank = len(x.shape)
    in_place = tuple(
        axis
        for axis in range(rank)
        if axis not in numbers.collapsed_slice_dims + numbers.operand_batching_dims
    )
    if indices.is_constant and len(indices.shape) == 1:  # one slice, at a known place
        starts = [0] * rank
        for axis, start in zip(axes, np.asarray(indices.source).tolist(), strict=True):
            # As JAX does out of bounds, in all modes that occur here.
            starts[axis] = start
        ends = [
            side if size == side else start + size
            for start, size, side in zip(starts, sizes, x.shape, strict=True)
        ]
        part = cut(graph, x, starts, ends, (1,) * rank, sizes)
        kept = [part.kept[axis] for axis in in_place]
        return [graph.reshape(part, kept, shape)]
    if len(axes) != 1 or sizes[axes[0]] != 1 or axes != numbers.collapsed_slice_dims:
        raise NotExportableError(f"a gather along several axes, {numbers}")
    axis, lead = axes[0], len(numbers.operand_batching_dims)
    others = [side for place, side in enumerate(x.shape) if place not in (axis, *range(lead))]
    if [sizes[place] for place in in_place] != others:
        raise NotExportableError("a gather of parts of slices")
    order = tuple(range(len(shape)))
    wide = graph.reshape(indices, indices.kept[:-1], indices.shape[:-1])
    wide = graph.cast(wide, np.int64)
    picked = tuple(place for place in order if place not in numbers.offset_dims)
    if not lead:
        if numbers.offset_dims != order[:axis] + order[axis + len(wide.shape) :]:
            raise NotExportableError("a gather that moves axes")
        whole = graph.full(x)
        kept = [*whole.kept[:axis], *wide.kept, *whole.kept[axis + 1 :]]
        return [graph.node("Gather", [whole, wide], shape, x.dtype, kept=kept, axis=axis)]
    if lead > 1 or axis != 1 or picked != order[: len(picked)] or x.kept[0] != x.shape[0]:
        raise NotExportableError("a gather of batches that moves axes")
    if wide.kept[0] == 1 and wide.shape[0] != 1:  # the same places for the whole batch
        same = graph.reshape(wide, wide.kept[1:], wide.shape[1:])
        whole = graph.full(x)
        kept = [x.shape[0], *same.kept, *x.shape[2:]]
        return [graph.node("Gather", [whole, same], shape, x.dtype, kept=kept, axis=1)]
    deep = graph.full(wide)
    deep = graph.reshape(deep, (*deep.shape, 1), (*deep.shape, 1))
    return [graph.node("GatherND", [graph.full(x), deep], shape, x.dtype, batch_dims=1)]


def _reduce(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    operator, axes = _REDUCTIONS[eqn.primitive.name], eqn.params["axes"]
    if any(x.kept[axis] != x.shape[axis] for axis in axes):
        x = graph.full(x)
    kept = [side for axis, side in enumerate(x.kept) if axis not in axes]
    shape = eqn.outvars[0].aval.shape
    if operator == "ReduceSum":  # the only one that takes axes as an input in this opset
        inputs = [x, graph.integers(axes)]
        return [graph.node(operator, inputs, shape, x.dtype, kept=kept, keepdims=0)]
    return [
        graph.node(operator, [x], shape, x.dtype, kept=kept, keepdims=0, axes=list(map(int, axes)))
    ]


def _argmax(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    (axis,) = eqn.params["axes"]
    shape = eqn.outvars[0].aval.shape
    operator = {"argmax": "ArgMax", "argmin": "ArgMin"}[eqn.primitive.name]
    place = graph.node(operator, [graph.full(x)], shape, np.int64, axis=int(axis), keepdims=0)
    return [graph.cast(place, eqn.params["index_dtype"])]


def _dot(graph: Graph, eqn: Any, x: Value, y: Value) -> list[Value]:
    """As a matrix product: batch axes first, those that are summed last in x and before last in y."""
    (x_sum, y_sum), (x_batch, y_batch) = eqn.params["dimension_numbers"]
    shape, dtype = eqn.outvars[0].aval.shape, eqn.outvars[0].aval.dtype
    x_free = [axis for axis in range(len(x.shape)) if axis not in (*x_sum, *x_batch)]
    y_free = [axis for axis in range(len(y.shape)) if axis not in (*y_sum, *y_batch)]
    batch = len(x_batch)
    simple = not batch and len(x_sum) == 1 and len(y_free) == 1 and x_free
    if any(x.kept[axis] != x.shape[axis] for axis in x_sum) or (not simple and len(x_free) != 1):
        x = graph.full(x)
    if any(y.kept[axis] != y.shape[axis] for axis in (*y_sum, *y_free)):
        y = graph.full(y)
    left = graph.transpose(x, (*x_batch, *x_free, *x_sum))
    right = graph.transpose(y, (*y_batch, *y_sum, *y_free))
    if not simple:
        left = _merged(graph, left, batch, batch + len(x_free))
        right = _merged(graph, right, batch, batch + len(y_sum))
    lead = _together([left.kept[:-2], right.kept[:-2]])
    kept = (*lead, *left.kept[len(left.kept) - 2 : -1], right.kept[-1])
    rows = (*left.shape[:-1], right.shape[-1])
    product = graph.node("MatMul", [left, right], rows, dtype, kept=kept)
    if len(rows) == len(shape):
        return [graph.reshape(product, product.kept, shape)]
    final = (*product.kept[:batch], *shape[batch:])
    return [graph.reshape(product, final, shape)]


def _merged(graph: Graph, value: Value, first: int, second: int) -> Value:
    """Returns the value with the axes [first, second) as one, and those from second on as one."""
    kept = (
        *value.kept[:first], _product(value.kept[first:second]), _product(value.kept[second:]),
    )  # fmt: skip
    shape = (
        *value.shape[:first], _product(value.shape[first:second]), _product(value.shape[second:]),
    )  # fmt: skip
    return graph.reshape(value, kept, shape)


def _product(sides: Sequence[Any]) -> Any:
    result: Any = 1
    for side in sides:
        result = result * side
    return result


def _conv(graph: Graph, eqn: Any, x: Value, kernel: Value) -> list[Value]:
    params = eqn.params
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) - {1}:
        raise NotExportableError("a transposed or batch-grouped convolution")
    if any(amount < 0 for pair in params["padding"] for amount in pair):
        raise NotExportableError("a convolution with negative padding")
    shape = eqn.outvars[0].aval.shape
    image = graph.transpose(graph.full(x), numbers.lhs_spec)
    weights = graph.transpose(graph.full(kernel), numbers.rhs_spec)
    befores, afters = zip(*params["padding"], strict=True)
    result = graph.node(
        "Conv", [image, weights], [shape[axis] for axis in numbers.out_spec], x.dtype,
        pads=[*befores, *afters], strides=params["window_strides"],
        dilations=params["rhs_dilation"], group=params["feature_group_count"],
    )  # fmt: skip
    return [graph.transpose(result, np.argsort(numbers.out_spec).tolist())]


def _max_pool(graph: Graph, eqn: Any, x: Value) -> list[Value]:
    params = eqn.params
    sides, strides, padding = (
        params[name] for name in ("window_dimensions", "window_strides", "padding")
    )
    if set(params["base_dilation"]) - {1}:
        raise NotExportableError("a pooling with dilated input")
    moved = [a for a, side in enumerate(sides) if (side, strides[a], *padding[a]) != (1, 1, 0, 0)]
    rest = [axis for axis in range(len(sides)) if axis not in moved]
    shape = eqn.outvars[0].aval.shape
    image = graph.transpose(graph.full(x), (*rest, *moved))
    lead = image.shape[: len(rest)]
    flat = (_product(lead), 1, *image.shape[len(rest) :])
    pooled = graph.node(
        "MaxPool", [graph.reshape(image, flat, flat)], (*flat[:2], *[shape[a] for a in moved]),
        x.dtype, kernel_shape=[sides[a] for a in moved], strides=[strides[a] for a in moved],
        pads=[padding[a][0] for a in moved] + [padding[a][1] for a in moved],
        dilations=[params["window_dilation"][a] for a in moved],
    )  # fmt: skip
    split = (*lead, *[shape[a] for a in moved])
    return [
        graph.transpose(graph.reshape(pooled, split, split), np.argsort([*rest, *moved]).tolist())
    ]


RULES: dict[str, Rule] = {
    **dict.fromkeys(OPERATORS, _operator),
    **dict.fromkeys(_REDUCTIONS, _reduce), "argmax": _argmax, "argmin": _argmax,
    "rsqrt": _rsqrt, "square": _square, "integer_pow": _integer_pow, "erfc": _erfc,
    "log1p": _log1p, "ne": _ne, "rem": _rem, "is_finite": _is_finite, "select_n": _select,
    "clamp": _clamp, "convert_element_type": _convert, "broadcast_in_dim": _broadcast,
    "iota": _iota, "reshape": _reshape, "squeeze": _squeeze, "transpose": _transpose,
    "slice": _slice, "dynamic_slice": _dynamic_slice, "concatenate": _concatenate,
    "stack": _stack, "split": _split, "pad": _pad, "rev": _rev, "gather": _gather, "dot_general": _dot,
    "conv_general_dilated": _conv, "reduce_window_max": _max_pool,
}  # fmt: skip
#: Those of them that work element by element, so that constants fold without being repeated.
ELEMENTWISE = frozenset(
    (*OPERATORS, "rsqrt", "square", "integer_pow", "erfc", "log1p", "ne", "rem",
     "is_finite", "select_n", "clamp", "convert_element_type")
)  # fmt: skip


def fold(eqn: Any, values: Sequence[Value]) -> list[Value] | None:
    """Returns the outputs of an equation whose inputs are known; None if they depend on the batch."""
    shapes = [var.aval.shape for var in eqn.outvars]
    if not all(value.is_constant for value in values):
        return None
    if eqn.primitive.name in ELEMENTWISE:
        arrays = np.broadcast_arrays(*[np.asarray(value.source) for value in values])
        found = _run(eqn, arrays)
        return [constant(array, shape) for array, shape in zip(found, shapes, strict=True)]
    is_fixed = all(isinstance(side, int) for shape in shapes for side in shape)
    if not is_fixed or not all(value.is_full for value in values):
        return None
    return [constant(array) for array in _run(eqn, [value.source for value in values])]


def _run(eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        found = eqn.primitive.bind(*arrays, **eqn.params)
    return [np.asarray(array) for array in (found if eqn.primitive.multiple_results else [found])]
