"""Renders single-file HTML pages from the templates, styles and scripts of this package.

Enters: untrusted names and values. Leaves: the text of an HTML page that loads nothing. Values are
escaped (Jinja2 with autoescape); values for a script go through `embed`. As a second safeguard, the
pages carry a content security policy that allows only their own script.
"""

import base64
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

# In a script element these characters could end it, or open a comment that swallows the page.
_IN_SCRIPT = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"))


def render(template: str, **values: Any) -> str:
    """Returns a filled template.

    Args:
      template: path of a file in this package.
      values: the values of the template, by name.

    Raises:
      jinja2.UndefinedError: a value of the template is missing.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def embed(value: Any) -> Markup:
    """Returns a value as JSON that is safe in a script element, whatever text it contains.

    Raises:
      ValueError: the value contains NaN or an infinity, which JSON cannot represent.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character, escaped in _IN_SCRIPT:
        text = text.replace(character, escaped)
    return Markup(text)


def source(*names: str) -> Markup:
    """Returns the concatenated text of files of this package, unescaped."""
    folder = resources.files(__package__)
    return Markup("\n".join(folder.joinpath(name).read_text("utf-8") for name in names))


def digest(script: str) -> str:
    """Returns the hash by which a content security policy allows a script."""
    code = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(code).decode()}'"


def data_uri(jpeg: bytes) -> str:
    """Returns a picture as a data URI, for the attribute src."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share as text, such as "12.5%"; a dash for None."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.{digits}f}%"


def thousands(number: int) -> str:
    """Returns an integer with thousands separators."""
    return f"{number:,}"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FunctionLoader(source),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"percent": percent, "thousands": thousands, "embed": embed}
_ENVIRONMENT.globals |= {"source": source, "digest": digest, "data_uri": data_uri}
