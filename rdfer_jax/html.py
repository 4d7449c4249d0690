"""Web pages in one file each: the templates, styles and scripts of this package, and how to fill them.

Enters: names and values, which nobody has to trust. Leaves: the text of an HTML page that loads nothing.
Values are escaped (Jinja2 with autoescape); what goes to a script goes through `embed`. As a second
lock the pages carry a content security policy, which lets no script run but their own.
"""

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

# Inside a script element these could end it, or open a comment that swallows the rest of the page.
_IN_SCRIPT = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


def render(template: str, **values: Any) -> str:
    """Fills a template.

    Args:
      template: path of a file in this package.
      values: by the names that the template knows.

    Raises:
      jinja2.UndefinedError: the template needs a value that was not given.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def embed(value: Any) -> Markup:
    """Returns a value as JSON that a script element can hold, whatever texts it holds itself.

    Raises:
      ValueError: it holds NaN or an infinity, which JSON has not.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character, escaped in _IN_SCRIPT:
        text = text.replace(character, escaped)
    return Markup(text)


def source(*names: str) -> Markup:
    """Returns files of this package as they are, one after another."""
    folder = resources.files(__package__)
    return Markup("\n".join(folder.joinpath(name).read_text("utf-8") for name in names))


def digest(script: str) -> str:
    """Returns how a content security policy names a script of the page: the hash of its text."""
    code = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(code).decode()}'"


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share as a reader sees it; a dash for one that is not known."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.{digits}f}%"


def thousands(number: int) -> str:
    """Returns a whole number with its thousands apart."""
    return f"{number:,}"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FunctionLoader(source),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"percent": percent, "thousands": thousands, "embed": embed}
_ENVIRONMENT.globals |= {"source": source, "digest": digest}
