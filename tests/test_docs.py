"""README, docs and the tutorial: commands parse, links and paths resolve, settings exist, numbers agree."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from rdfer_jax import cli, config

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorials" / "predict-in-python.ipynb"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "data").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FOLDERS = ("benchmarks", "configs", "data", "docs", "experiments", "rdfer_jax", "tests")
#: Files that the recipes of CONTRIBUTING.md create.
EXAMPLES = {
    "configs/plays.py",
    "data/plays/plays_dataset_builder.py",
    "rdfer_jax/losses/mae.py",
    "rdfer_jax/models/patch_mean.py",
}
SECTIONS = {name: {f.name for f in dataclasses.fields(s)} for name, s in config.SECTIONS.items()}
PLAIN = {field.name for field in dataclasses.fields(config.Config)}


def pages() -> list:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


def outside_fences(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.+)$", outside_fences(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).strip().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", pages())
def test_every_relative_link_resolves(page: pathlib.Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_fences(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), target


@pytest.mark.parametrize("page", pages())
def test_every_named_path_exists(page: pathlib.Path):
    # The pages of the data sets also name paths inside the data sets.
    folders = [f for f in FOLDERS if f != "data" or page.parent.parent != ROOT / "data"]
    pattern = rf"(?<![\w./:<-])(?:{'|'.join(folders)})/[\w./-]*\w"
    for path in re.findall(pattern, page.read_text()):
        assert path in EXAMPLES or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", pages())
def test_every_named_module_exists(page: pathlib.Path):
    text = page.read_text()
    named = re.findall(r"python -m ([\w.]+)", text)
    named += re.findall(r"^::: ([\w.]+)", text, re.MULTILINE)
    named += re.findall(r"`((?:rdfer_jax|benchmarks|experiments)\.[\w.]*\w)`", text)
    if page.name == "CHANGELOG.md":
        named = []  # names the old modules too
    for name in named:
        assert exists(name), name


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    if name in ("pytest", "venv"):
        return True
    module, attributes = name, []
    while module:
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        if spec:
            value = importlib.import_module(module) if attributes else None
            for attribute in reversed(attributes):
                if not hasattr(value, attribute):
                    return False
                value = getattr(value, attribute)
            return True
        module, _, last = module.rpartition(".")
        attributes.append(last)
    return False


@pytest.mark.parametrize("page", [*pages(), pytest.param(NOTEBOOK, id="notebook")])
def test_every_named_setting_exists(page: pathlib.Path):
    for path in re.findall(
        r"(?<![\w./])(?:--)?config\.([a-z_]+(?:\.[a-z_0-9]+)*)", page.read_text()
    ):
        section, _, name = path.partition(".")
        if path in ("py", "json", "resolve", "toml") or section in ("section", "build"):
            continue
        assert section in PLAIN, path
        if section in SECTIONS and name:
            assert name in SECTIONS[section], path


def test_every_page_named_in_the_code_exists():
    for folder in FOLDERS:
        for source in (ROOT / folder).rglob("*.py"):
            for path in re.findall(r"docs/[\w/-]+\.(?:md|png|json)", source.read_text()):
                assert (ROOT / path).exists(), f"{source}: {path}"


def test_the_tree_names_every_part_of_the_package():
    tree = (ROOT / "docs/explanation/architecture.md").read_text().split("```")[1]
    package = ROOT / "rdfer_jax"
    parts = [path.name for path in package.glob("*.py") if path.stem != "__init__"]
    parts += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    for part in parts:
        assert part in tree, part


def test_the_reference_names_every_config():
    page = (ROOT / "docs/reference/command-line.md").read_text()
    for path in (ROOT / "configs").glob("*.py"):
        assert path.stem == "__init__" or f"`{path.stem}`" in page, path.stem


def test_the_reference_names_every_script():
    page = (ROOT / "docs/reference/command-line.md").read_text()
    for folder in ("benchmarks", "experiments"):
        for path in (ROOT / folder).glob("*.py"):
            if '__name__ == "__main__"' in path.read_text():
                assert f"{folder}.{path.stem}" in page, path


def fences(page: pathlib.Path) -> str:
    """The shell blocks of a page, and the recipes of the Makefile, with continued lines joined."""
    text = page.read_text()
    if page.suffix == ".md":
        text = "\n".join(re.findall(r"```(?:sh|)\n(.*?)```", text, re.DOTALL))
    return re.sub(r"\s*\\\n\s*", " ", text)


@pytest.mark.parametrize("page", [*pages(), pytest.param(ROOT / "Makefile", id="Makefile")])
def test_every_command_parses(page: pathlib.Path):
    start = r"^\s*(?:\$\(BIN\)/)?(?:rdfer|python -m rdfer_jax\.main) (.+)$"
    for line in re.findall(start, fences(page), re.MULTILINE):
        call = cli.parse(shlex.split(line.rstrip("'").rstrip(), comments=True))
        assert isinstance(call, cli.Call), line


@pytest.mark.parametrize("page", pages())
def test_every_command_named_in_a_sentence_exists(page: pathlib.Path):
    for command, rest in re.findall(r"`rdfer ([a-z]+)([^`]*)`", page.read_text()):
        flags = {flag.name for flag in cli.COMMANDS[command].flags}
        for flag in re.findall(r"--([a-z]+)", rest):
            assert flag in flags or flag == "help", f"{command} {rest}"


@pytest.mark.parametrize("page", pages())
def test_every_flag_of_a_script_exists(page: pathlib.Path):
    for module, rest in re.findall(r"python -m ([\w.]+)([^`\n]*)", page.read_text()):
        package = module.partition(".")[0]
        if package not in FOLDERS or module == "rdfer_jax.main":
            continue
        sources = "".join(path.read_text() for path in (ROOT / package).rglob("*.py"))
        for flag in re.findall(r"--([a-z][a-z_]*)", rest):
            defined = re.search(
                rf"""(DEFINE_\w+\(\s*|add_argument\(\s*)["'](--)?{flag}["']""", sources
            ) or re.search(rf"""DEFINE_bool\w*\(\s*["']{flag.removeprefix("no")}["']""", sources)
            assert flag == "config" or defined, f"{module} --{flag}"


def test_the_readme_shows_the_stored_run():
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "docs/update_readme.py")
    assert spec and spec.loader
    update_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update_readme)
    readme = (ROOT / "README.md").read_text()
    results = json.loads((ROOT / "docs/results/demo.json").read_text())
    assert update_readme.updated(readme, results) == readme
    assert f"{results['war']:.1%}" in readme


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: pathlib.Path):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "agg", "JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy after four steps: 0." in done.stdout
    assert re.search(r"expression: (happy|sad|neutral|angry|surprise|disgust|fear)\n", done.stdout)
    hits = re.search(r"of the 30 most suspicious videos, (\d+) are truly", done.stdout)
    assert hits and int(hits[1]) >= 20
