"""Answers in the shapes of Flickr's and Getty's, made up here, and what hypothesis makes of them."""

import copy
from typing import Any

from hypothesis import strategies as st

FLICKR_PHOTO = {
    "id": "5123",
    "owner": "12@N00",
    "ownername": "someone",
    "title": "Pier at dawn",
    "tags": "sea pier",
    "description": {"_content": 'Out <b>early</b> &amp; cold, see <a href="https://example.com">more</a>'},
    "license": "4",
    "dateupload": "1581319011",
    "ispublic": 1,
    "url_m": "https://live.staticflickr.com/1/5123_ab.jpg",
    "width_m": "500",
    "height_m": "333",
    "url_z": "https://live.staticflickr.com/1/5123_ab_z.jpg",
    "width_z": 640,
    "height_z": 427,
}


def flickr_answer(*photos: object, **changes: object) -> dict[str, Any]:
    """A whole answer to `photos.search` with these photos."""
    listed = list(photos)
    head = {"page": 1, "pages": 1, "perpage": 500, "total": len(listed), "photo": listed}
    return {"stat": "ok", "photos": head | changes}


def flickr_photo(**changes: object) -> dict[str, Any]:
    """FLICKR_PHOTO with some changes; None leaves the key out."""
    return {key: value for key, value in (FLICKR_PHOTO | changes).items() if value is not None}


GETTY_IMAGE = {
    "id": "9183",
    "title": "A pier at dawn",
    "caption": "A pier stretches into a quiet sea at dawn.",
    "artist": "someone",
    "date_created": "2019-09-20T00:00:00-07:00",
    "license_model": "royaltyfree",
    "max_dimensions": {"height": 3682, "width": 4800},
    "display_sizes": [
        {
            "is_watermarked": False,
            "name": "comp",
            "uri": "https://media.example.com/9183.jpg?b=1&s=612x612&w=0",
        },
        {
            "is_watermarked": False,
            "name": "comp_webp",
            "uri": "https://media.example.com/9183.webp?s=612x612",
        },
        {"is_watermarked": False, "name": "thumb", "uri": "https://media.example.com/t/9183.jpg"},
    ],
    "referral_destinations": [
        {"site_name": "istockphoto", "uri": "https://www.istock.example.com/9183"},
        {"site_name": "gettyimages", "uri": "https://www.getty.example.com/9183"},
    ],
}


def getty_answer(*images: object, **changes: object) -> dict[str, Any]:
    """A whole answer to a search with these images."""
    return {"result_count": len(images), "images": list(images)} | changes


_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates and NULs, too
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | _TEXT
    | st.sampled_from(
        ["", "0", "-1", "1" * 400, 10**300, "https://[", "http://", "\ud83d", "\0", "stat", "fail"]
    )
)
JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    if not isinstance(document, dict | list):
        return []
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    return [place for key in keys for place in [(document, key), *_places(document[key])]]


@st.composite
def mutated(draw: st.DrawFn, answer: dict[str, Any]) -> Any:
    """The answer with one to four parts replaced by any JSON, or left out."""
    document = copy.deepcopy(answer)
    for _ in range(draw(st.integers(1, 4))):
        places = _places(document)
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        if draw(st.booleans()):
            container[key] = draw(JSON)
        else:
            del container[key]
    return document
