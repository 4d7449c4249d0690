"""MkDocs hooks: pages generated from the code, and pages whose source lies outside docs/."""

import dataclasses
import json
import os
import pathlib
import posixpath
import re
import tomllib
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[1]

#: Markdown outside docs/ -> its page on the site.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "data/README.md": "reference/data/index.md",
    "rdfer_jax/weights/faces.md": "reference/packaged-weights.md",
} | {
    f"data/{name}/README.md": f"reference/data/{name}.md"
    for name in ("synthetic_faces", "dfew", "ferv39k", "mafw", "ferplus", "video_folder")
}
#: The contract of prediction.json, as a file to download.
SCHEMA = "rdfer_jax/predict/prediction.schema.json"
NOTEBOOK = "tutorials/predict-in-python"
PLACES = PAGES | {
    f"docs/{NOTEBOOK}.ipynb": f"{NOTEBOOK}.md",
    SCHEMA: "reference/prediction.schema.json",
}
LIMITS = {"low": "at least", "high": "at most"}
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/ and the notebook as a page."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relink(text, source, page)))
    schema = (ROOT / SCHEMA).read_text(encoding="utf-8")
    files.append(File.generated(config, PLACES[SCHEMA], content=schema))
    notebook = json.loads((ROOT / "docs" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=notebook_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Adapts links that leave docs/, and fills in the generated parts of a page."""
    place = page.file.src_uri
    if page.file.generated_by is None:
        markdown = relink(markdown, f"docs/{place}", place)
    if place == "reference/settings.md":
        markdown = markdown.replace("<!-- settings -->", settings_tables())
    if place == "reference/command-line.md":
        markdown = markdown.replace("<!-- commands -->", command_help())
    if place == "explanation/architecture.md":
        markdown = markdown.replace("<!-- layers -->", layers_table())
    return markdown


def relink(text: str, source: str, page: str) -> str:
    """Rewrites the relative links of a file for its place on the site.

    Links to files that are not on the site become plain text.
    """

    def replace(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = PLACES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None:
            return label
        return f"[{label}]({os.path.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(replace, text)


def notebook_markdown(notebook: dict[str, Any]) -> str:
    """Returns the cells of a notebook as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def command_help() -> str:
    """Returns the help text of each command."""
    from rdfer_jax import cli

    return "\n\n".join(
        f"### rdfer {name}\n\n```text\n{cli.command_help(name)}\n```" for name in cli.COMMANDS
    )


def settings_tables() -> str:
    """Returns one table per section of rdfer_jax/config/sections/."""
    from rdfer_jax import config

    sections: dict[str, Any] = {"": config.Config, **config.SECTIONS}
    parts = []
    for name, section in sections.items():
        prefix = f"config.{name}." if name else "config."
        rows = [
            f"| `{prefix}{field.name}` | `{default(field)}` | {meaning(field)} |"
            for field in dataclasses.fields(section)
            if "text" in field.metadata
        ]
        title = f"## {name or 'Run'}\n\n{(section.__doc__ or '').splitlines()[0]}"
        parts.append(
            "\n".join([f"{title}\n", "| setting | default | meaning |", "|---|---|---|", *rows])
        )
    return "\n\n".join(parts)


def default(field: dataclasses.Field[Any]) -> str:
    """Returns a setting's default as it is written on the command line."""
    value = field.default
    return repr(value) if not hasattr(value, "items") else "{}"


def meaning(field: dataclasses.Field[Any]) -> str:
    """Returns a setting's description with its choices and limits."""
    from rdfer_jax import config

    limits = field.metadata
    parts = [limits["text"].replace("|", r"\|")]
    if choices := config.choices(field):
        parts.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    parts += [f"{word} {limits[key]}" for key, word in LIMITS.items() if key in limits]
    return "; ".join(parts)


def layers_table() -> str:
    """Returns the layers of the import contract in pyproject.toml, top first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = [f"| {', '.join(f'`{name}`' for name in layer.split(' | '))} |" for layer in layers]
    return "\n".join(["| layers, top to bottom |", "|---|", *rows])
