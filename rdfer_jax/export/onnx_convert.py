"""A JAX function -> an ONNX model: its jaxpr, equation by equation.

Calls are written out, loops of known length too, and what depends on weights alone is computed now. A
converter of our own, because the networks need few primitives, and the graph stays free of what a general
one has to add; docs/explanation/design-decisions.md has the comparison with jax2onnx.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from rdfer_jax.export.onnx_graph import Graph, NotExportableError, Value, batch, constant
from rdfer_jax.export.onnx_rules import RULES, SAME, cut, fold

#: Where primitives that call a function keep it.
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = (
    "jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip


def convert(
    function: Callable[[jax.Array], Mapping[str, jax.Array]],
    shape: Sequence[int],
    input_name: str,
) -> onnx.ModelProto:
    """Returns the model.

    Args:
      function: from uint8 [B, *shape] to the named outputs; each video by itself.
      shape: of a video.
      input_name: of the input.

    Raises:
      NotExportableError: an operation has no rule.
    """
    whole = (batch(), *shape)
    closed, structure = jax.make_jaxpr(function, return_shape=True)(
        jax.ShapeDtypeStruct(whole, jnp.uint8)
    )
    graph = Graph(input_name, whole, np.uint8)
    wanted = [True] * len(closed.jaxpr.outvars)
    try:
        found = _evaluate(graph, closed.jaxpr, closed.consts, [graph.input], wanted)
    except NotExportableError as error:
        raise NotExportableError(
            f"this network has {error}, which cannot be written as ONNX; export it with --formats=stablehlo"
        ) from None
    named = jax.tree.unflatten(jax.tree.structure(structure), found)
    return graph.model(named)


def _evaluate(
    graph: Graph, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value], wanted: Sequence[bool]
) -> list[Value | None]:
    """Adds what computes the wanted outputs of a jaxpr; the others are None."""
    known: dict[Any, Value] = {}

    def read(var: Any) -> Value:
        is_literal = hasattr(var, "val")
        return constant(np.asarray(var.val, var.aval.dtype)) if is_literal else known[var]

    fixed = [item if isinstance(item, Value) else constant(np.asarray(item)) for item in consts]
    known |= dict(zip(jaxpr.constvars, fixed, strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))
    outputs = [var for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted]
    for eqn in _needed(jaxpr, outputs):
        values = [read(var) for var in eqn[0].invars]
        results = _equation(graph, eqn[0], values, eqn[1])
        known |= {
            var: result
            for var, result in zip(eqn[0].outvars, results, strict=True)
            if result is not None
        }
    return [
        read(var) if is_wanted else None
        for var, is_wanted in zip(jaxpr.outvars, wanted, strict=True)
    ]


def _needed(jaxpr: Any, outputs: Sequence[Any]) -> list[tuple[Any, list[bool]]]:
    """Returns the equations that the outputs need, in order, each with which of its outputs are needed."""
    needed = {var for var in outputs if not hasattr(var, "val")}
    found = []
    for eqn in reversed(jaxpr.eqns):
        used = [var in needed for var in eqn.outvars]
        if any(used):
            found.append((eqn, used))
            needed |= {var for var in eqn.invars if not hasattr(var, "val")}
    return found[::-1]


def _equation(
    graph: Graph, eqn: Any, values: list[Value], used: list[bool]
) -> Sequence[Value | None]:
    name = eqn.primitive.name
    if name in _CALLS:
        called = next(eqn.params[key] for key in _CALLED if key in eqn.params)
        return _call(graph, called, values, used)
    if name == "scan":
        return _scan(graph, eqn, values, used)
    if name in SAME:
        return values
    if name == "platform_index":
        return [constant(np.array(_cpu(eqn.params["platforms"]), np.int32))]
    if name == "cond":
        which, *rest = values
        if not which.is_constant:
            raise NotExportableError("a choice of what to compute, made by the network")
        return _call(graph, eqn.params["branches"][int(which.source)], rest, used)
    if not all(isinstance(var.aval.dtype, np.dtype) for var in eqn.outvars):
        raise NotExportableError("random numbers, for views that are drawn")
    folded = fold(eqn, values)
    if folded is not None:
        return folded
    if name not in RULES:
        raise NotExportableError(f"the operation {name!r}")
    return RULES[name](graph, eqn, *values)


def _call(
    graph: Graph, called: Any, values: Sequence[Value], used: Sequence[bool]
) -> list[Value | None]:
    is_closed = hasattr(called, "consts")
    jaxpr, consts = (called.jaxpr, called.consts) if is_closed else (called, ())
    return _evaluate(graph, jaxpr, consts, values, used)


def _cpu(platforms: Sequence[Any]) -> int:
    """Returns which of the branches is that of a CPU; the last is for all others."""
    for index, names in enumerate(platforms):
        if names is None or "cpu" in names:
            return index
    raise NotExportableError("an operation without a version for CPUs")


def _scan(graph: Graph, eqn: Any, values: list[Value], used: list[bool]) -> list[Value | None]:
    """Writes out a loop."""
    params = eqn.params
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    fixed, carry = values[:num_consts], values[num_consts : num_consts + num_carry]
    inputs = values[num_consts + num_carry :]
    steps: list[list[Value]] = []
    order = range(length)[::-1] if params["reverse"] else range(length)
    for step in order:
        now = [_row(graph, value, step) for value in inputs]
        wanted = [True] * num_carry + list(used[num_carry:])
        found = _call(graph, params["jaxpr"], [*fixed, *carry, *now], wanted)
        carry = [value for value in found[:num_carry] if value is not None]
        steps.append(found[num_carry:])  # type: ignore[arg-type]
    if params["reverse"]:
        steps.reverse()
    stacked: list[Value | None] = []
    for place, var in enumerate(eqn.outvars[num_carry:]):
        if not used[num_carry + place]:
            stacked.append(None)
            continue
        rows = [graph.full(step[place]) for step in steps]
        rows = [graph.reshape(row, (1, *row.shape), (1, *row.shape)) for row in rows]
        stacked.append(graph.node("Concat", rows, var.aval.shape, var.aval.dtype, axis=0))
    return [*carry, *stacked]


def _row(graph: Graph, value: Value, step: int) -> Value:
    """Returns value[step]."""
    starts, ends = [step] + [0] * (len(value.shape) - 1), [step + 1, *value.shape[1:]]
    part = cut(graph, value, starts, ends, [1] * len(starts), (1, *value.shape[1:]))
    return graph.reshape(part, part.kept[1:], value.shape[1:])
