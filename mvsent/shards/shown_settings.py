"""The settings of a build as the card and the report show them."""

from mvsent.config import BuildSettings
from mvsent.shards.manifest import Manifest
from mvsent.shards.terms import source_of
from mvsent.sources.flickr_licenses import LICENSES
from mvsent.sources.registry import SearchedSource


def shown_settings(manifest: Manifest) -> dict[str, str]:
    """The settings that decided the rows, in words; an empty one where its emptiness means something.

    Left out are settings that cannot change a row, and those of a search or of a dump that there was not.
    """
    settings, source = manifest.settings, source_of(manifest.name)
    stated = source.settings.stated() if isinstance(source, SearchedSource) else {}
    hidden = BuildSettings.without_effect() | ({"sort", "safe"} if settings.get("dumps") else {"match"})
    shown = {}
    for name, value in settings.items():
        if name in hidden or value is None:
            continue
        if name == "license" and isinstance(value, str) and value:
            text = ", ".join(LICENSES.get(number, number) for number in value.split(","))
        elif isinstance(value, list):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        if not value and value is not False and name in stated:
            text = stated[name].unset or text
        if text:
            shown[name] = text
    return shown
