"""Removes each defence of defences.py from a copy of the project, and checks that its test notices.

    pip install -e '.[robustness]'
    python -m tests.robustness.mutations                 # all defences: about ten minutes
    python -m tests.robustness.mutations --only=disk     # those whose fault contains the word
    python -m tests.robustness.mutations --all --only=disk   # every mutation of their functions

cosmic-ray applies the mutations, runs the tests and restores the files. It has no operators that remove
code, so those are here. With --all, all operators of cosmic-ray are applied to the whole function.
Prints a table and the diff of every mutation that no test noticed, writes mutations.json, and exits with
1 if there is one.
"""

import contextlib
import difflib
import importlib
import inspect
import operator
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_code, use_mutation
from cosmic_ray.operators.operator import Operator
from cosmic_ray.testing import run_tests
from cosmic_ray.util import read_python_source
from cosmic_ray.work_item import TestOutcome
from parso.python.tree import Name
from tqdm import tqdm

from benchmarks import harness
from rdfer_jax import paths
from tests.robustness.defences import DEFENCES, Defence

ROOT = pathlib.Path(__file__).parents[2]
#: Seconds after which the tests of a mutation are stopped; the mutation then counts as noticed.
TIMEOUT = 400


def _is_condition(node: Any) -> bool:
    """Whether a node is the condition of an if, an elif, a conditional expression or a comprehension."""
    before = node.get_previous_sibling() if node.parent else None
    return getattr(before, "value", "") in ("if", "elif")


def _is_child(node: Any, parent: str) -> bool:
    """Whether a node is a part of a statement that is neither punctuation nor a block."""
    is_part = node.type not in ("newline", "keyword", "operator", "suite")
    return is_part and node.parent is not None and node.parent.type == parent


#: Ways to remove a defence: which nodes of the syntax tree, and the code that replaces them.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "never": (_is_condition, "False"),
    "always": (_is_condition, "True"),
    "statement": (lambda node: _is_child(node, "simple_stmt"), "pass"),
    "return": (lambda node: node.type == "return_stmt", "return None"),
    "except": (lambda node: node.type == "except_clause", "except ()"),
    "with": (
        lambda node: _is_child(node, "with_stmt"),
        "memoryview(b'')",
    ),  # a context that does nothing
    "call": (lambda node: node.type == "trailer" and node.children[0].value == ".", ""),
    "wall clock": (lambda node: node.type == "name", "time"),
}


class Removal(Operator):
    """Replaces nodes of one of KINDS; "call" also removes the parentheses after the method's name."""

    def __init__(self, kind: str):
        self._kind = kind
        self._matches, self._code = KINDS[kind]

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if self._matches(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        if self._kind == "call":
            arguments = node.get_next_sibling()
            arguments.children = [Name("", arguments.start_pos)]
        return Name(self._code, node.start_pos, node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class Within(Operator):
    """Another operator, limited to lines and to nodes with an identifier.

    Args:
      inner: the operator.
      lines: the lines.
      about: the identifier; empty for all nodes. Of a constant, the identifiers of its argument count.
    """

    def __init__(self, inner: Operator, lines: range, about: str = ""):
        self._inner, self._lines, self._about = inner, lines, about

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.start_pos[0] in self._lines and (not self._about or self._about in _names(node)):
            yield from self._inner.mutation_positions(node)

    def mutate(self, node: Any, index: int) -> Any:
        return self._inner.mutate(node, index)

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def _names(node: Any) -> set[str]:
    """Returns the identifiers in a node."""
    if node.type in ("keyword", "operator", "number"):
        node = node.parent
    leaves = [n for n in ast_nodes(node) if n.type == "name"]
    return {leaf.value for leaf in leaves}


def locate(function: str) -> tuple[pathlib.Path, range]:
    """Returns the file of a function, relative to the project, and its lines; see Defence.function."""
    module_name, _, name = function.partition(":")
    module = importlib.import_module(module_name)
    path = pathlib.Path(inspect.getsourcefile(module)).relative_to(ROOT)
    if not name:
        return path, range(1, len(inspect.getsource(module).splitlines()) + 1)
    lines, first = inspect.getsourcelines(inspect.unwrap(operator.attrgetter(name)(module)))
    return path, range(first, first + len(lines))


def mutations(defence: Defence, every: bool = False) -> list[tuple[pathlib.Path, Operator, int]]:
    """Returns (file, operator, occurrence) of the mutations that remove a defence.

    Args:
      defence: one of DEFENCES.
      every: whether to return all mutations of the function by all operators of cosmic-ray.
    """
    path, lines = locate(defence.function)
    if every:
        classes = map(plugins.get_operator, plugins.operator_names())
        operators = [Within(one(), lines) for one in classes if not one.arguments()]
    else:
        kind = defence.kind
        inner = Removal(kind) if kind in KINDS else plugins.get_operator(kind)()
        operators = [Within(inner, lines, defence.about)]
    nodes = list(ast_nodes(get_ast_from_path(ROOT / path)))
    return [
        (path, one, occurrence)
        for one in operators
        for occurrence in range(sum(len([*one.mutation_positions(node)]) for node in nodes))
    ]


def diff(path: pathlib.Path, one: Operator, occurrence: int) -> str:
    """Returns the changed lines of a mutation."""
    before = read_python_source(ROOT / path)
    after = mutate_code(before, one, occurrence) or before
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(path), str(path), n=1, lineterm=""
    )
    return "\n".join(lines)


def copy(root: pathlib.Path) -> None:
    """Copies the files that git knows, as they are now."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)


def is_noticed(test: str) -> bool:
    """Whether a test fails in the current folder, or no longer ends."""
    words = (sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", test)
    outcome, _ = run_tests(shlex.join(words), TIMEOUT)
    return outcome == TestOutcome.KILLED


def try_defence(defence: Defence, every: bool = False) -> dict[str, Any]:
    """Applies the mutations of a defence to the current folder, one at a time.

    Returns:
      Of the defence: fault, function, test; number of mutations and of those that the test noticed; the
      diffs of the others; and whether the test passes without mutation. If not, no mutation is tried.
    """
    row = {"fault": defence.fault, "function": defence.function, "test": defence.test}
    row |= {"passes": not is_noticed(defence.test), "mutations": 0, "noticed": 0, "survivors": []}
    for path, one, occurrence in mutations(defence, every) if row["passes"] else ():
        with use_mutation(path, one, occurrence):
            noticed = is_noticed(defence.test)
        row["mutations"] += 1
        row["noticed"] += noticed
        if not noticed:
            row["survivors"].append(diff(path, one, occurrence))
    return row


def main(argv: Sequence[str]) -> None:
    """Tries the chosen defences, prints a table and writes mutations.json."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options, output = flags.FLAGS, pathlib.Path(flags.FLAGS.output).absolute()
    chosen = [defence for defence in DEFENCES if options.only in defence.fault]
    if not chosen:
        raise app.UsageError(f"--only={options.only}: no fault contains this text")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        copy(pathlib.Path(folder))
        os.environ["PYTHONPATH"] = folder
        rows = [try_defence(defence, options.all) for defence in tqdm(chosen, disable=None)]
    names = ("fault", "passes", "mutations", "noticed")
    print(harness.table([names, *([str(row[name]) for name in names] for row in rows)]))
    for row in rows:
        for survivor in row["survivors"]:
            print(f"{row['fault']}: not noticed by {row['test']}\n{survivor}")
    good = [row for row in rows if 0 < row["mutations"] == row["noticed"]]
    print(f"{len(good)} of {len(rows)} defences: every mutation was noticed")
    output.mkdir(parents=True, exist_ok=True)
    report = {"hardware": harness.hardware(), "commit": harness.commit(), "defences": rows}
    (output / "mutations.json").write_text(harness.to_json(report))
    sys.exit(len(good) < len(rows))


if __name__ == "__main__":
    flags.DEFINE_string("only", "", "Only faults that contain this text.")
    flags.DEFINE_bool("all", False, "Apply all operators of cosmic-ray to the whole functions.")
    paths.DEFINE_path("output", "runs/mutations", "Folder for mutations.json.")
    app.run(main)
