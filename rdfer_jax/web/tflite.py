"""Reads the graph of a TFLite file: its tensors and operators, for converting it.

A TFLite file is a FlatBuffer: tables refer to their fields by offsets. Only the fields that are needed here
are read; their numbers are those of TFLite's schema.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

import numpy as np

_T = TypeVar("_T")

#: Element types of tensors, by their numbers in the schema.
TYPES: dict[int, np.dtype] = {
    0: np.dtype(np.float32),
    1: np.dtype(np.float16),
    2: np.dtype(np.int32),
}
#: Operators, by their numbers in the schema.
OPERATORS = {
    0: "add",
    2: "concatenation",
    3: "conv_2d",
    4: "depthwise_conv_2d",
    6: "dequantize",
    17: "max_pool_2d",
    19: "relu",
    22: "reshape",
    34: "pad",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor: its name, shape, and its values if it is a constant."""

    name: str
    shape: tuple[int, ...]
    values: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
      kind: one of OPERATORS.
      inputs, outputs: indices of tensors.
      options: its table of options; None if it has none.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: "Table | None"


@dataclasses.dataclass(frozen=True)
class Graph:
    """The graph of a network; inputs and outputs are indices of tensors, operators are in order."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a FlatBuffer, at a place in its bytes."""

    data: bytes
    place: int

    @classmethod
    def root(cls, data: bytes) -> Self:
        """Returns the outermost table."""
        return cls(data, struct.unpack_from("<I", data)[0])

    def scalar(self, field: int, kind: str, default: int = 0) -> int:
        """Returns a number, with its type as of the module struct."""
        place = self._field(field)
        return struct.unpack_from(f"<{kind}", self.data, place)[0] if place else default

    def table(self, field: int) -> "Table | None":
        """Returns a table; None if there is none."""
        place = self._field(field)
        return Table(self.data, self._follow(place)) if place else None

    def text(self, field: int) -> str:
        """Returns a string."""
        return self.array(field, np.dtype(np.uint8)).tobytes().decode()

    def array(self, field: int, kind: np.dtype) -> np.ndarray:
        """Returns a vector of numbers; empty if there is none."""
        start, length = self._vector(field)
        return np.frombuffer(self.data, kind, length, start)

    def tables(self, field: int, read: "Callable[[Table], _T]") -> tuple[_T, ...]:
        """Returns what is read of each table of a vector."""
        return tuple(read(table) for table in self._tables(field))

    def _tables(self, field: int) -> "Iterator[Table]":
        start, length = self._vector(field)
        for place in range(start, start + 4 * length, 4):
            yield Table(self.data, self._follow(place))

    def _field(self, field: int) -> int:
        """Returns where a field is; 0 if the table does not have it."""
        index = self.place - struct.unpack_from("<i", self.data, self.place)[0]
        entry = 4 + 2 * field
        if entry >= struct.unpack_from("<H", self.data, index)[0]:
            return 0
        offset = struct.unpack_from("<H", self.data, index + entry)[0]
        return self.place + offset if offset else 0

    def _follow(self, place: int) -> int:
        return place + struct.unpack_from("<I", self.data, place)[0]

    def _vector(self, field: int) -> tuple[int, int]:
        place = self._field(field)
        if not place:
            return 0, 0
        start = self._follow(place)
        return start + 4, struct.unpack_from("<I", self.data, start)[0]


def read(data: bytes) -> Graph:
    """Returns the first graph of a TFLite file.

    Raises:
      ValueError: it is not such a file, or has types or operators that are not listed here.
    """
    if data[4:8] != b"TFL3":
        raise ValueError("not a TFLite file")
    model = Table.root(data)
    codes = model.tables(1, lambda code: max(code.scalar(0, "b"), code.scalar(3, "i")))
    buffers = model.tables(4, lambda buffer: buffer.array(0, np.dtype(np.uint8)))

    def tensor(table: Table) -> Tensor:
        shape, number = _ints(table, 0), table.scalar(1, "b")
        if number not in TYPES:
            raise ValueError(f"tensor {table.text(3)} has the type {number}, which is not read")
        held = buffers[table.scalar(2, "I")]
        values = held.view(TYPES[number]).reshape(shape) if held.size else None
        return Tensor(table.text(3), shape, values)

    def operator(table: Table) -> Operator:
        code = codes[table.scalar(0, "I")]
        if code not in OPERATORS:
            raise ValueError(f"has the operator {code}, which is not read")
        return Operator(OPERATORS[code], _ints(table, 1), _ints(table, 2), table.table(4))

    (graph, *_) = model.tables(2, lambda table: table)
    return Graph(
        graph.tables(0, tensor), graph.tables(3, operator), _ints(graph, 1), _ints(graph, 2)
    )


def _ints(table: Table, field: int) -> tuple[int, ...]:
    return tuple(table.array(field, np.dtype(np.int32)).tolist())
