"""The frame of a report: one file that loads nothing, and runs only its own script and style."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mvsent import __version__

GENERATOR = "mvsent report"
"""Marker in the head of a page that mvsent generated, and may therefore replace."""


def render_document(template: str, values: Mapping[str, Any]) -> str:
    """Render a template with style, script, and a content security policy that allows only these two."""
    style, script = _own("report.css"), _own("report.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_allowed(style)}; script-src {_allowed(script)}"
    )
    return (
        environment()
        .get_template(template)
        .render(
            generator=GENERATOR,
            version=__version__,
            policy=policy,
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
            **values,
        )
    )


@cache
def environment() -> Environment:
    """The template environment: every value is escaped, and a missing name is an error."""
    made = Environment(
        loader=PackageLoader("mvsent.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = lambda value: f"{value:,}"
    made.filters["percent"] = lambda value: f"{value:.2f}".rstrip("0").rstrip(".") + "%"
    return made


@cache
def _own(name: str) -> str:
    """The text of one of the package's own files, which needs no escaping."""
    return (files("mvsent.report") / "templates" / name).read_text(encoding="utf-8")


def _allowed(text: str) -> str:
    """The content security policy's source expression for exactly this style or script.

    >>> _allowed("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
