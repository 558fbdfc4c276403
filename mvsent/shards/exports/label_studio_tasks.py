"""Label Studio: tasks.json to import, config.xml for the labelling interface, and the pictures in images/.

A task asks for the sentiment of the text and of the picture, as MVSA's annotators were asked. The dataset's
own labels go along as a prediction, which never counts as an annotation. `mvsent reconcile-tasks` reads the
annotations back, see `mvsent/sources/label_studio.py`.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mvsent.curate.labels import QUESTIONS
from mvsent.pairs import LABEL_NAMES
from mvsent.shards.exports.rows import ExportOptions, Row, extension, file_stem, picture

TASKS_FILE, CONFIG_FILE = "tasks.json", "config.xml"
IMAGE_FOLDER = "images"
_MEDIA_TYPES = {"jpg": "jpeg", "tif": "tiff", "bin": "octet-stream"}

_CHOICES = """\
  <Choices name="{question}" toName="{subject}" choice="single" required="true" showInline="true">
{choices}
  </Choices>"""


def write(rows: Iterable[Row], folder: Path, options: ExportOptions) -> None:
    """Write one task for each pair, with the pictures beside them or, on request, embedded.

    Raises: DatasetError for a pair without a picture.
    """
    (folder / CONFIG_FILE).write_text(config(), encoding="utf-8")
    if not options.embed_images:
        (folder / IMAGE_FOLDER).mkdir()
    with (folder / TASKS_FILE).open("w", encoding="utf-8") as file:
        separator = "[\n"
        for row in rows:
            image = picture(row)
            kind = extension(image)
            if options.embed_images:
                data = base64.b64encode(image).decode()
                url = f"data:image/{_MEDIA_TYPES.get(kind, kind)};base64,{data}"
            else:  # the address under which Label Studio serves the picture, now a file in `folder`
                path = f"{IMAGE_FOLDER}/{file_stem(row['id'])}.{kind}"
                (folder / path).write_bytes(image)
                url = f"/data/local-files/?d={quote(f'{options.folder_name}/{path}')}"
            file.write(separator + json.dumps(task(row, url), ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n")


def config() -> str:
    """The labelling interface: text and picture, each with its three choices."""
    choices = "\n".join(f'    <Choice value="{name}"/>' for name in reversed(LABEL_NAMES))
    text, image = (
        _CHOICES.format(question=question, subject=subject, choices=choices)
        for question, subject in zip(QUESTIONS, ("text", "image"), strict=True)
    )
    return f"""<View>
  <Header value="The sentiment of the text alone"/>
  <Text name="text" value="$text" valueType="text"/>
{text}
  <Header value="The sentiment of the picture alone"/>
  <Image name="image" value="$image" maxWidth="640px"/>
{image}
</View>
"""


def task(row: Row, image_url: str) -> dict[str, Any]:
    """A task as Label Studio imports it."""
    labels = zip(QUESTIONS, ("text", "image"), (row["text_label"], row["image_label"]), strict=True)
    known = [(*of, row["label"] if label is None else label) for *of, label in labels]
    result = [
        {
            "from_name": question,
            "to_name": subject,
            "type": "choices",
            "value": {"choices": [LABEL_NAMES[label]]},
        }
        for question, subject, label in known
        if label is not None
    ]
    return {
        "data": {"id": row["id"], "text": row["text"] or "", "image": image_url},
        "predictions": [{"model_version": row["source"] or "mvsent", "result": result}] if result else [],
    }
