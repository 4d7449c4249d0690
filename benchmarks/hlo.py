"""Parses the text of compiled XLA modules (HLO): collectives, loops and sizes."""

import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Instruction(NamedTuple):
    """One line of HLO text: `%name = type opcode(operands), attributes`."""

    computation: str
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


_COMPUTATION = re.compile(r"(?:ENTRY )?%(\S+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%(\S+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)([a-z0-9]*)\[([\d,<=]*)\]")


def instructions(hlo: str) -> Iterator[Instruction]:
    """Yields the instructions of all computations in the text of an HLO module."""
    computation = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            type_, rest = _split_type(match[2])
            opcode, _, rest = rest.partition("(")
            operands, _, attributes = rest.partition(")")
            names = tuple(re.findall(r"%([^\s,)]+)", operands))
            yield Instruction(computation, match[1], type_, opcode.strip(), names, attributes)


def _split_type(text: str) -> tuple[str, str]:
    """Splits 'type opcode(...' after the type, which may be a tuple of tuples."""
    if not text.startswith("("):
        type_, _, rest = text.partition(" ")
        return type_, rest
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[: position + 1], text[position + 1 :]
    return text, ""


def type_bytes(type_: str) -> int:
    """Returns the bytes of an HLO type, such as `(f32[2,3]{1,0:T(8,128)}, pred[])`, unpadded."""
    total = 0
    for kind, width, _, dimensions in _ARRAY.findall(type_):
        if kind in ("token", "opaque"):
            continue
        bits = 8 if kind == "pred" else int(width)
        for dimension in filter(None, dimensions.split(",")):
            bits *= int(dimension.removeprefix("<="))
        total += -(-bits // 8)
    return total


def _elements(type_: str) -> list[str]:
    """Returns the element types of a tuple type; nested tuples stay whole."""
    if not type_.startswith("("):
        return [type_]
    found, depth, start = [], 0, 1
    for position, character in enumerate(type_):
        depth += (character in "([{") - (character in ")]}")
        if (depth == 1 and character == ",") or not depth:
            found.append(type_[start:position])
            start = position + 1
    return found


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Counts the collectives of a compiled module by kind.

    An asynchronous collective counts once, whether it is a pair of -start and -done or, on TPU, several
    fusions with a copy each. An all-reduce fused with a slice, as on TPU, counts as a reduce-scatter. A
    collective in the body of a loop counts once, regardless of the number of iterations.

    Args:
      hlo: the text of a compiled module.

    Returns:
      For each kind that occurs, its count and its bytes on one device: of the inputs or the outputs,
      whichever is larger.
    """
    found: dict[str, dict[str, int]] = {}
    sizes: dict[str, int] = {}
    seen = set()
    for instruction in instructions(hlo):
        sizes[instruction.name] = type_bytes(instruction.type)
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        if (identity := _asynchronous_identity(instruction)) is not None:
            if identity in seen:
                continue
            seen.add(identity)
        if instruction.computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        operand_bytes = sum(sizes.get(name, 0) for name in instruction.operands)
        if instruction.opcode.endswith("-start"):
            # The elements of its result are operands, results and flags.
            result_bytes = max(map(type_bytes, _elements(instruction.type)))
        else:
            result_bytes = type_bytes(instruction.type)
        entry = found.setdefault(kind, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += max(operand_bytes, result_bytes)
    return dict(sorted(found.items()))


def _asynchronous_identity(instruction: Instruction) -> tuple[str, ...] | None:
    """Returns the identity of a collective that several TPU fusions hold copies of, or None."""
    chain = re.search(r'chain_id="(\w+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (instruction.opcode, chain[1], channel[1] if channel else "") if chain else None


def count_loops(hlo: str) -> int:
    """Counts the while loops of a module. FLOPs, bytes and collectives count one iteration of each."""
    return sum(instruction.opcode == "while" for instruction in instructions(hlo))
