"""Who may import whom: a module imports only from its own layer and the layers below it."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

#: The modules and packages of rdfer_jax, from the top down. A new one has to be placed here.
LAYERS = (
    ("main",),
    (
        "train",
        "loop",
        "evaluate",
        "predict",
        "audit",
        "audit_page",
        "audit_run",
        "report",
        "crossval",
        "build",
        "flips",
    ),
    ("steps",),
    ("checkpoint", "writers", "perf", "plots", "pages", "prediction_files", "workdir"),
    ("state", "optim", "metrics", "pretrained", "noise_matrix"),
    ("models", "agreement", "losses", "augment"),
    ("pipeline", "video", "faces"),
    ("sharding", "memory", "preemption", "config", "types", "record"),
)
#: Modules of rdfer_jax that may import the builders in data/, inside a function.
BUILDERS = ("main", "build", "flips")
#: Heavy packages that no module may import when it is itself imported.
LAZY = ("tensorflow", "tensorboard", "torch", "clu.metric_writers", "clu.periodic_actions")

_HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}
_PROJECT = ("rdfer_jax", "data", "configs", "benchmarks", "tests")


def violations(sources):
    """Returns what breaks the rules, in words; `sources` is the text of each file by its path."""
    modules = {_module(path): path for path in sources}
    found, edges = [], {}
    for module, path in modules.items():
        is_package = path.endswith("__init__.py")
        for target, in_function in _imports(sources[path], module, is_package, modules):
            if message := _judge(module, target, in_function):
                found.append(f"{path}: {message}")
            elif target in modules and target != module:
                edges.setdefault(module, set()).add(target)
    for module, path in modules.items():
        parts = module.split(".")
        if parts[0] == "rdfer_jax" and len(parts) > 1 and parts[1] not in _HEIGHT:
            found.append(f"{path}: place the new module '{parts[1]}' in LAYERS of {__name__}")
    if cycle := _cycle(edges):
        found.append(f"cycle: {' -> '.join(cycle)}")
    return found


def _module(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(source, module, is_package, modules):
    """Yields the full name of each imported module, and whether a function imports it."""
    found = []

    def visit(node, in_function):
        if isinstance(node, ast.Import):
            found.extend((alias.name, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: None if is_package else -1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([base] if base else [])])
            for alias in node.names:
                # `from a import b` may mean module a.b, or something inside of module a.
                whole = f"{base}.{alias.name}"
                is_module = whole in modules or whole in LAZY or base == "rdfer_jax"
                found.append((whole if is_module else base, in_function))
        elif isinstance(node, ast.Call) and _is_dynamic_import(node.func):
            found.append(("<dynamic>", in_function))
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, in_function or inside)

    visit(ast.parse(source), False)
    return found


def _is_dynamic_import(function):
    name = getattr(function, "attr", getattr(function, "id", None))
    return name in ("import_module", "__import__")


def _judge(module, target, in_function):
    """Says what is wrong with one import, or returns None."""
    package, _, rest = module.partition(".")
    target_package, _, target_rest = target.partition(".")
    if not in_function and any(target == name or target.startswith(f"{name}.") for name in LAZY):
        return f"imports {target} when it is itself imported"
    if package == "rdfer_jax":
        name = rest.partition(".")[0]
        target_name = target_rest.partition(".")[0]
        if target == "<dynamic>" or target_package == "data":
            if name not in BUILDERS:
                return f"only {' and '.join(BUILDERS)} may import {target}"
            return None if in_function else f"must import {target} inside a function"
        if target_package in _PROJECT and target_package != "rdfer_jax":
            return f"must not import {target}"
        if target_package == "rdfer_jax":
            if not rest:
                return "the package itself must import none of its modules"
            if target_rest and target_name not in _HEIGHT:
                return f"imports {target}, which is in no layer"
            if target_rest and name in _HEIGHT and _HEIGHT[target_name] > _HEIGHT[name]:
                return f"imports {target} from a higher layer"
    if package == "data" and target_package in _PROJECT and target_package != "data":
        return f"must not import {target}: data/ knows nothing of the rest"
    if (
        package == "configs"
        and target_package in _PROJECT
        and target_package != "configs"
        and target != "rdfer_jax.config"
    ):
        return f"must not import {target}: a configuration holds values only"
    return None


def _cycle(edges):
    """Returns the modules of one cycle of imports, the first one again at the end, or None."""
    done, path = set(), []

    def search(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        path.append(module)
        for target in sorted(edges.get(module, ())):
            if cycle := search(target):
                return cycle
        done.add(path.pop())
        return None

    return next(filter(None, map(search, sorted(edges))), None)


def test_project_keeps_the_layers():
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for package in ("rdfer_jax", "data", "configs")
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    assert {"rdfer_jax/metrics.py", "data/schema.py"} <= set(sources)
    assert violations(sources) == []


ALLOWED = {
    "rdfer_jax/__init__.py": '"""Nothing."""',
    "rdfer_jax/config.py": "import dataclasses",
    "rdfer_jax/types.py": "import jax",
    "rdfer_jax/pipeline/__init__.py": "",
    "rdfer_jax/pipeline/source.py": "from rdfer_jax.config import Data",
    "rdfer_jax/pipeline/loader.py": "from . import source\nfrom .source import Split",
    "rdfer_jax/models/__init__.py": "from rdfer_jax.models.rdfer import RDFER",
    "rdfer_jax/models/rdfer.py": "from rdfer_jax.models import trunks\nfrom ..types import Batch",
    "rdfer_jax/models/trunks.py": "import flax",
    "rdfer_jax/agreement.py": "from rdfer_jax import types",
    "rdfer_jax/losses.py": "from rdfer_jax.agreement import Mask",
    "rdfer_jax/writers.py": "def board():\n    from clu import metric_writers",
    "rdfer_jax/main.py": "from rdfer_jax import train\n\ndef build():\n    from data import build",
    "rdfer_jax/train.py": "import rdfer_jax.models.rdfer\nimport rdfer_jax.evaluate",
    "rdfer_jax/evaluate.py": "from rdfer_jax import losses, writers",
    "data/__init__.py": "",
    "data/build.py": "from data import schema\nimport importlib\nimportlib.import_module('x')",
    "data/schema.py": "import tensorflow_datasets as tfds",
    "configs/synthetic.py": "from rdfer_jax import config",
    "configs/noise.py": "from configs import synthetic",
}


def test_checker_allows_what_is_allowed():
    assert violations(ALLOWED) == []


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("rdfer_jax/types.py", "import rdfer_jax.losses", "higher layer"),
        ("rdfer_jax/types.py", "from rdfer_jax import losses", "higher layer"),
        ("rdfer_jax/types.py", "from .losses import loss", "higher layer"),
        ("rdfer_jax/types.py", "def f():\n    from . import losses", "higher layer"),
        ("rdfer_jax/pipeline/source.py", "from ..models.trunks import create", "higher layer"),
        ("rdfer_jax/pipeline/__init__.py", "from .. import models", "higher layer"),
        ("rdfer_jax/models/trunks.py", "from rdfer_jax.models import rdfer", "cycle"),
        ("rdfer_jax/agreement.py", "if x:\n    from rdfer_jax import losses", "cycle"),
        ("rdfer_jax/evaluate.py", "from rdfer_jax.train import f", "cycle"),
        ("rdfer_jax/helpers.py", "import math", "place the new module 'helpers'"),
        ("rdfer_jax/tools/__init__.py", "", "place the new module 'tools'"),
        ("rdfer_jax/main.py", "from rdfer_jax import helpers", "in no layer"),
        ("rdfer_jax/__init__.py", "from rdfer_jax import main", "none of its modules"),
        ("rdfer_jax/main.py", "from data import build", "inside a function"),
        ("rdfer_jax/train.py", "def f():\n    import data.build", "only main and build"),
        ("rdfer_jax/train.py", "def f():\n    importlib.import_module(n)", "<dynamic>"),
        ("rdfer_jax/train.py", "import configs.synthetic", "must not import configs.synthetic"),
        ("rdfer_jax/train.py", "from benchmarks import tpu", "must not import benchmarks"),
        ("data/build.py", "from rdfer_jax import config", "knows nothing of the rest"),
        ("data/build.py", "def f():\n    import rdfer_jax", "knows nothing of the rest"),
        ("configs/synthetic.py", "from rdfer_jax import train", "values only"),
        ("rdfer_jax/writers.py", "from clu import metric_writers", "when it is itself imported"),
        ("rdfer_jax/writers.py", "try:\n  import torch\nexcept E:\n  torch = 0", "imports torch"),
        ("data/schema.py", "import tensorflow.io as io", "imports tensorflow.io"),
    ],
)
def test_checker_finds(path, source, message):
    (found,) = violations(ALLOWED | {path: source})
    assert found.startswith(path) or message == "cycle"
    assert message in found


_REPORT = """
import sys
for name in sys.argv[2:]:
    __import__(name)
heavy = sorted(set(sys.argv[1].split(",")) & set(sys.modules))
print("found:", *heavy)
"""


def _heavy_modules_after_importing(*names, stubs):
    """Imports modules in a process where the heavy packages are installed, as empty stubs."""
    heavy = [name for name in LAZY if "." not in name]
    for name in heavy:
        (stubs / name).mkdir(exist_ok=True)
        (stubs / name / "__init__.py").touch()
    result = subprocess.run(
        [sys.executable, "-c", _REPORT, ",".join(heavy), *names],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{stubs}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].removeprefix("found:").split()


def test_the_train_and_build_paths_import_no_tensorflow(tmp_path):
    names = "rdfer_jax.main", "rdfer_jax.train", "rdfer_jax.evaluate", "data.build"
    assert _heavy_modules_after_importing(*names, stubs=tmp_path) == []


def test_a_planted_import_of_tensorflow_is_seen(tmp_path):
    (tmp_path / "planted.py").write_text("try:\n    import tensorflow\nexcept ImportError: ...")
    assert _heavy_modules_after_importing("planted", stubs=tmp_path) == ["tensorflow"]
