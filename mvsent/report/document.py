"""The frame of a report: one file that fetches nothing and runs no script and no style but its own."""

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
"""By this mark in its head a file is known as a report, which a new one may replace."""


def render_document(template: str, values: Mapping[str, Any]) -> str:
    """The page of a template and its values, with style, script, and a policy that allows only these two."""
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
    """Where templates are read: everything is escaped, and a name that is missing is an error."""
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
    """The text of one of our files; it is no stranger's, so it stands in the page as it is."""
    return (files("mvsent.report") / "templates" / name).read_text(encoding="utf-8")


def _allowed(text: str) -> str:
    """The policy's word for exactly this style or script.

    >>> _allowed("")
    "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
