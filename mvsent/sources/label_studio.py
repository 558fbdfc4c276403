"""Label Studio's JSON export of the tasks that `mvsent export --to label-studio` wrote.

[{"id": 7, "data": {"id": "mvsa-single:1", …}, "annotations": [
    {"completed_by": 2, "was_cancelled": false, "updated_at": "2024-05-01T09:30:00Z", "result": [
      {"from_name": "text_sentiment", "type": "choices", "value": {"choices": ["positive"]}},
      {"from_name": "image_sentiment", "type": "choices", "value": {"choices": ["neutral"]}}]}]}]

It holds predictions and drafts too, which are not votes.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mvsent.curate.labels import MISSING, QUESTIONS
from mvsent.errors import InputError
from mvsent.pairs import Label

MAX_EXPORT_BYTES = 2**30
_AGAIN = "Export the project as JSON (not JSON-MIN, CSV or another format)"


class SetAside(StrEnum):
    """Why an annotation does not count."""

    SKIPPED = "skipped"
    NO_CHOICE = "no-choice"
    UNCLEAR_CHOICE = "unclear-choice"  # two at once, or a word that is no sentiment
    ANSWERED_AGAIN = "answered-again"  # by the same person, later
    NO_ID = "no-id"
    UNKNOWN_ID = "unknown-id"


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's labels of one task, -1 for a question left open."""

    text: int
    image: int


@dataclass
class TaskAnnotations:
    """The last vote of every annotator on every task, and the number of those that do not count."""

    votes: dict[str, dict[str, Vote]] = field(default_factory=dict)
    """By the pair's id, then by annotator."""
    n_tasks: int = 0
    n_annotations: int = 0
    set_aside: Counter[SetAside] = field(default_factory=Counter)


def parse_export(content: bytes, where: str) -> TaskAnnotations:
    """Parse an export; `where` names it in messages.

    Raises: InputError for another kind of file, or a project that asked other questions.
    """
    tasks = _tasks(content, where)
    answers, asked = TaskAnnotations(n_tasks=len(tasks)), set[str]()
    dates: dict[tuple[str, str], str] = {}
    for number, task in enumerate(tasks):
        id = _member(task.get("data"), "id")
        for place, annotation in enumerate(_annotations(task, number, where)):
            answers.n_annotations += 1
            asked |= {str(item.get("from_name")) for item in _items(annotation)}
            vote = SetAside.NO_ID if not isinstance(id, str) else _vote(annotation)
            if isinstance(vote, SetAside):
                answers.set_aside[vote] += 1
                continue
            # Annotations without a person are those of different people, so that none replaces another.
            person = _annotator(annotation) or f"nobody {number} {place}"
            # Of several by one person on one task the latest counts, else the last in the file.
            key = str(id), person
            date = str(annotation.get("updated_at") or annotation.get("created_at") or "")
            if key in dates:
                answers.set_aside[SetAside.ANSWERED_AGAIN] += 1
                if date < dates[key]:  # ISO 8601, which sorts as text
                    continue
            dates[key] = date
            answers.votes.setdefault(str(id), {})[person] = vote
    if asked and not asked & set(QUESTIONS):
        others = ", ".join(name[:40] for name in sorted(asked)[:3])
        raise InputError(
            f"{where}: asks {others}, and not {' or '.join(QUESTIONS)}",
            "Give the export of a project with the config.xml of mvsent export --to label-studio",
        )
    return answers


def _tasks(content: bytes, where: str) -> list[dict[str, Any]]:
    try:
        tasks = json.loads(content)
    except (ValueError, RecursionError) as error:  # the last: deep nesting
        raise InputError(f"{where}: not readable as JSON: {str(error)[:200]}", _AGAIN) from None
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(f"{where}: not a list of tasks", _AGAIN)
    if not tasks:
        raise InputError(f"{where}: no tasks in it", "Annotate some tasks first")
    return tasks


def _annotations(task: dict[str, Any], number: int, where: str) -> list[dict[str, Any]]:
    listed = task.get("annotations")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise InputError(f"{where}: task {number + 1} has no list of annotations", _AGAIN)
    return listed


def _items(annotation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    result = annotation.get("result")
    return (item for item in result if isinstance(item, dict)) if isinstance(result, list) else iter(())


def _vote(annotation: dict[str, Any]) -> Vote | SetAside:
    """The chosen labels, or why the annotation does not count."""
    if annotation.get("was_cancelled"):
        return SetAside.SKIPPED
    chosen: dict[str, int] = {}
    for item in _items(annotation):
        question = item.get("from_name")
        if question not in QUESTIONS:
            continue
        label = _label(item)
        if label is None or question in chosen:
            return SetAside.UNCLEAR_CHOICE
        chosen[question] = label
    if not chosen:
        return SetAside.NO_CHOICE
    text, image = (chosen.get(question, int(MISSING)) for question in QUESTIONS)
    return Vote(text, image)


def _label(item: dict[str, Any]) -> int | None:
    choices = _member(item.get("value"), "choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], str):
        return None
    try:
        return int(Label.parse(choices[0]))
    except KeyError:
        return None


def _annotator(annotation: dict[str, Any]) -> str:
    """The person: `completed_by` is a number, an address, or an object that has them; empty if unknown."""
    person = annotation.get("completed_by")
    if isinstance(person, dict):
        person = next((person[key] for key in ("id", "email") if person.get(key) is not None), None)
    return str(person) if isinstance(person, int | str) else ""


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
