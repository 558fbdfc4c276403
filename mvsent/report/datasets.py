"""Datasets and their splits as text for the terminal, from the documents that `--json` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from mvsent.curate.near_texts import MAX_TEXTS
from mvsent.pairs import LABEL_NAMES, UNLABELLED
from mvsent.report.tables import UNDEFINED, aligned, percent
from mvsent.splits import GROUPED, GROUPED_NEAR, PROTOCOLS, plain_protocol

_MAX_ENTRIES = 6  # entries of an export that are listed
_NOT_COUNTED = f"near copies are not counted: more than {MAX_TEXTS} rows, or too many that resemble others"


def render_stats(documents: Sequence[Mapping[str, Any]]) -> str:
    """Render Table I of the datasets, each above the paper's row, and further figures of each dataset."""
    some_lack = any(document["unlabelled"] for document in documents)
    names = (*LABEL_NAMES, UNLABELLED) if some_lack else LABEL_NAMES
    labels = []
    for document in documents:
        counts = {**document["labels"], UNLABELLED: document["unlabelled"]}
        labels.append(_label_row(document["name"], counts, names, document["annotation"]))
        if document["paper"]:
            kind = "weak" if document["paper"]["neutral"] == 0 else "strong"
            labels.append(_label_row("  the paper's", document["paper"], names, kind))
    figures = [
        ["words a text (5%, 50%, 95%)", *(_spread(d["text_words"]) for d in documents)],
        ["image width in pixels", *(_spread(d["image_width"]) for d in documents)],
        ["image height in pixels", *(_spread(d["image_height"]) for d in documents)],
        ["images", *(str(d["images"]) for d in documents)],
        ["rows with a duplicate", *(_share(d["duplicates"], d["total"]) for d in documents)],
        ["… that has another label", *(_share(d["contradicted"], d["total"]) for d in documents)],
    ]
    if any(d["pairs"] for d in documents):
        figures.insert(0, ["pairs", *(d["pairs"] or UNDEFINED for d in documents)])
    if any(d["watermarked"] is not None for d in documents):
        figures.append(
            ["images with a watermark", *(_share(d["watermarked"], d["total"]) for d in documents)]
        )
    return (
        f"{aligned(('dataset', *names, 'total', 'label'), labels)}\n\n"
        f"{aligned(('', *(document['name'] for document in documents)), figures)}"
        + "".join(f"\n\n{document['reminder']}" for document in documents if document["reminder"])
    )


def _label_row(name: str, labels: Mapping[str, int], names: Sequence[str], annotation: str) -> list[str]:
    counts = [labels.get(label, 0) for label in names]
    return [name, *(str(n) if n else UNDEFINED for n in counts), str(sum(counts)), annotation or UNDEFINED]


def _spread(percentiles: Sequence[int]) -> str:
    """The 5th, 50th and 95th percentile."""
    return " ".join(map(str, percentiles[1:4])) if percentiles else UNDEFINED


def _share(n: int | None, total: int) -> str:
    """A number of rows, and its share of all.

    >>> _share(3, 60)
    '3 (5.00%)'
    """
    if n is None:
        return UNDEFINED
    return f"{n} ({percent(n / total)}%)" if total else "0"


def _counted(n: int, noun: str) -> str:
    """
    >>> _counted(1, "row"), _counted(0, "row")
    ('1 row', '0 rows')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def render_split(document: Mapping[str, Any]) -> str:
    """Render the rows of each fold by role, the labels of test rows, and the leak.

    Of a grouped protocol that is the leak of the plain one, and what is left of it.
    """
    seed = f", seed {document['seed']}" if document["seed"] else ""
    rows = []
    for fold, roles in enumerate(document["folds"]):
        sums = [sum(roles[role].values()) for role in ("train", "validation", "test")]
        rows.append([str(fold), *map(str, sums), *(str(roles["test"][name]) for name in LABEL_NAMES)])
    tested = [f"test {name}" for name in LABEL_NAMES]
    parts = [
        f"{document['protocol']}{seed} → {document['path']}",
        aligned(("fold", "train", "validation", "test", *tested), rows),
    ]
    leak, owners, protocol = document["leak"], document["owners"], document["protocol"]
    if document["left"]:
        own, *left = left_lines(document["left"], protocol)
        shared = f"{_of(leak['n_leaked'], leak['n_test'])} test rows have a duplicate in training"
        told = [own, f"in {plain_protocol(protocol)}, {shared}"]
        if owners["n_leaked"]:
            told.append(
                f"{_of(owners['n_leaked'], owners['n_test'])} share an owner with training rows there"
            )
        told += left
    elif protocol in PROTOCOLS:
        told = shared_lines(leak, owners, protocol)
    else:
        told = [*document["notes"], *leak_lines(leak, owners, document["near_copies"])]
    if told:
        parts.append("\n".join(f"{line[0].upper()}{line[1:]}." for line in told))
    return "\n\n".join(parts)


def shared_lines(leak: Mapping[str, int], owners: Mapping[str, int], protocol: str) -> list[str]:
    """Sentences on the test rows of a plain protocol that share something with training rows."""
    return [
        f"{_of(one['n_leaked'], one['n_test'])} test rows share {what} with training rows; "
        f"grouped-{protocol} keeps them apart"
        for one, what in ((leak, "a text or picture"), (owners, "an owner"))
        if one["n_leaked"]
    ]


def left_lines(left: Mapping[str, Any], protocol: str) -> list[str]:
    """Sentences on the groups of a grouped protocol, and on the test rows that it leaks still."""
    lines = [
        f"{left['n_rows']} rows in {_counted(left['n_groups'], 'group')}, each kept on one side here; the "
        f"largest has {_counted(left['n_largest'], 'row')}"
    ]
    near, apart = left["near"], ""
    told = [(left["n_leaked"], "share a text or picture with training rows")]
    told += [(left["n_owners"], "share an owner with training rows")]
    if near:
        of = f"{near['n_texts']} by text, {near['n_pictures']} by picture"
        told.append((near["n_leaked"], f"have a near copy in training ({of})"))
        if near["n_leaked"] and not protocol.startswith(GROUPED_NEAR):
            apart = f"; {protocol.replace(GROUPED, GROUPED_NEAR)} keeps these apart"
    found = [f"{_of(n, left['n_test'])} test rows {what}" for n, what in told if n]
    if found:
        lines.append(f"what is left: {', '.join(found)}{apart}")
    else:
        copy = ", or has a near copy there" if near else ""
        lines.append(f"no test row shares a text, picture or owner with training rows{copy}")
    return lines if near else [*lines, _NOT_COUNTED]


def leak_lines(
    leak: Mapping[str, int], owners: Mapping[str, int], near: Mapping[str, int] | None
) -> list[str]:
    """Sentences on the test rows of split files that repeat training rows, exactly or nearly."""
    lines = [f"{_of(leak['n_leaked'], leak['n_test'])} test rows have an equal text or picture in training"]
    if near:
        lines.append(
            f"{_of(near['n_leaked'], near['n_compared'])} test rows have no equal but a near copy there: "
            f"{near['n_texts']} of the text, {near['n_pictures']} of the picture"
        )
    else:
        lines.append(_NOT_COUNTED)
    if owners["n_leaked"]:
        lines.append(
            f"{_of(owners['n_leaked'], owners['n_test'])} test rows share an owner with training rows"
        )
    return lines


def _of(n: int, total: int) -> str:
    """
    >>> _of(3, 60)
    '3 of 60 (5.00%)'
    """
    return f"{n} of {total} ({percent(n / total) if total else '0.00'}%)"


def render_validation(document: Mapping[str, Any]) -> str:
    """Render every problem on its own line, then the verdict and the numbers of things checked."""
    unlisted = document["n_problems"] - len(document["problems"])
    lines = list(document["problems"])
    if unlisted:
        lines.append(f"… and {unlisted} more")
    kinds = {"row": "n_rows", "picture": "n_images", "shard": "n_shards", "split": "n_splits"}
    seen = ", ".join(_counted(document[field], kind) for kind, field in kinds.items())
    verdict = "clean" if document["clean"] else _counted(document["n_problems"], "problem")
    lines.append(f"{document['folder']}: {verdict} ({seen})")
    return "\n".join(lines)


def render_export(document: Mapping[str, Any]) -> str:
    """Render the place and size of an export."""
    size = f"{document['bytes'] / 1e6:.1f} MB"
    counts = f"{_counted(document['rows'], 'pair')}, {_counted(document['files'], 'file')}, {size}"
    names = [f"  {name}" for name in document["entries"][:_MAX_ENTRIES]]
    more = len(document["entries"]) - len(names)
    lines = [f"{document['dataset']} as {document['format']} → {document['folder']}", *names]
    return "\n".join([*lines, *([f"  … and {more} more"] if more else []), counts])


def render_merge(document: Mapping[str, Any]) -> str:
    """Render the rows of each merged dataset, and the number of pictures with contradicting labels."""
    merged = document["notes"]["merged"]
    rows = [[one["name"], str(one["funnel"]["kept"]), one["sha256"][:12]] for one in merged]
    contradictions = _counted(document["notes"]["contradictions"], "picture")
    return (
        f"{aligned(('merged', 'rows', 'sha256'), rows)}\n\n"
        f"{contradictions} had several labels (--conflict {document['settings']['conflict']}).\n"
        f"Dropped rows, each with its reason: {document['folder']}/rejected.parquet"
    )


def render_shards(document: Mapping[str, Any]) -> str:
    """Render the numbers of rows and shards, and the names of the splits."""
    n_rows = sum(shard["rows"] for shard in document["shards"])
    counts = f"{_counted(n_rows, 'row')} in {_counted(len(document['shards']), 'shard')}"
    splits = ", ".join(document["splits"]) or "none"
    return f"{document['name']} → {document['folder']}\n{counts}; splits: {splits}"
