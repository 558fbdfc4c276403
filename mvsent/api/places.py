"""Arguments of the API: folders as strings, paths or objects, and settings by name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvsent.config import TrainSettings
from mvsent.errors import UsageError
from mvsent.storage import located, recorded

Place = str | os.PathLike[str]
"""A folder, an address such as s3://bucket/data, or an object that has a folder: a dataset or a run."""


def folder_of(place: Place) -> Path:
    """The folder of a path, an address, a dataset or a run.

    >>> folder_of("data/mvsa-single")
    PosixPath('data/mvsa-single')
    """
    held = getattr(place, "folder", None)  # a dataset or a run, perhaps in object storage
    given: Any = place
    if held is None and not isinstance(given, str | os.PathLike):
        what = f"a folder is asked for, not {type(given).__name__}"
        raise UsageError(what, "Give its path, a dataset or a run")
    if held is not None:
        return Path(held) if isinstance(held, str) else held
    # A remote path of universal_pathlib is no string, and is returned as it is.
    return located(place if isinstance(place, str | Path) else str(place))


def names_of(given: str | Sequence[str]) -> list[str]:
    """The names in a list, or in a text such as `roc,prc`.

    >>> names_of("roc, prc"), names_of(["roc"])
    (['roc', 'prc'], ['roc'])
    """
    texts = given.split(",") if isinstance(given, str) else given
    return [text.strip() for text in texts if text.strip()]


def settings_of(given: Mapping[str, Any]) -> TrainSettings:
    """Settings of a training, with paths recorded as the command records them.

    Raises: UsageError for an unknown name or an unusable value.
    """
    stated = TrainSettings.stated()
    kept = {}
    for name, value in given.items():
        text: Any = str(value) if isinstance(value, os.PathLike) else value
        if name == "folds" and not isinstance(text, int) and text is not None and not len(text):
            raise UsageError("folds: is empty", "Name some, or leave it out for all")
        if name in stated and stated[name].takes_several and isinstance(text, int):
            text = [text]  # folds=0
        if name in stated and stated[name].path and text:
            if stated[name].takes_several:
                text = [text] if isinstance(text, str) else list(map(str, text))
            text = recorded(stated[name], text)
        kept[name] = (text, name)
    return TrainSettings.checked(kept, "See: mvsent train --help")
