"""What an import costs: no module loads TensorFlow or PyTorch, or a package that would.

Who may import whom is a list of contracts in pyproject.toml, which `make lint` holds (import-linter).
"""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
#: Heavy packages that no module may import when it is itself imported.
HEAVY = ("tensorflow", "tensorboard", "torch")
ENTRY_POINTS = (
    "rdfer_jax.main",
    "rdfer_jax.commands",
    "rdfer_jax.training.train",
    "rdfer_jax.predict.predictor",
    "data.builder",
)

_REPORT = """
import sys
for name in sys.argv[2:]:
    __import__(name)
print("found:", *sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


def heavy_modules_after_importing(*names, stubs):
    """Imports modules in a process where the heavy packages are installed, as empty stubs."""
    for name in HEAVY:
        (stubs / name).mkdir(exist_ok=True)
        (stubs / name / "__init__.py").touch()
    result = subprocess.run(
        [sys.executable, "-c", _REPORT, ",".join(HEAVY), *names],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{stubs}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[1:]


@pytest.mark.e2e
@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_import_is_noticed(name, tmp_path):
    assert heavy_modules_after_importing(name, stubs=tmp_path) == [name]


@pytest.mark.e2e
def test_entry_points_load_nothing_heavy(tmp_path):
    assert heavy_modules_after_importing(*ENTRY_POINTS, stubs=tmp_path) == []
