"""`mvsent reconcile-tasks`: annotations come back as a dataset, and each that does not count is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mvsent.build.reconcile_tasks import AnnotatedResult, reconcile_tasks
from mvsent.cli import app, exit_code
from mvsent.config import ReconcileTasksSettings
from mvsent.datasets.export import export
from mvsent.datasets.validate import validate
from mvsent.errors import DatasetError, InputError, MvsentError, OutputExistsError, UsageError
from mvsent.pairs import PAIR_SCHEMA
from mvsent.shards.reader import Dataset
from mvsent.sources.label_studio import parse_export
from tests.drawing import draw_pairs

QUESTIONS = ("text_sentiment", "image_sentiment")
POS, NEU, NEG = "positive", "neutral", "negative"


def choice(question: str, *words: Any) -> dict[str, Any]:
    return {
        "id": "xyz",
        "type": "choices",
        "origin": "manual",
        "from_name": question,
        "to_name": question.removesuffix("_sentiment"),
        "value": {"choices": list(words)},
    }


def annotation(text: str | None, image: str | None, by: Any = 1, **members: Any) -> dict[str, Any]:
    chosen = zip(QUESTIONS, (text, image), strict=True)
    result = [choice(question, word) for question, word in chosen if word is not None]
    return {"id": 9, "completed_by": by, "was_cancelled": False, "result": result, **members}


def task(id: Any, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"id": id, "text": "a text", "image": "/data/local-files/?d=x.jpg"},
        "annotations": list(annotations),
        "predictions": [{"result": [choice(question, NEG) for question in QUESTIONS]}],
        "drafts": [],
    }


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    return make_dataset(draw_pairs(6), name="drawn", shard_size=4)


@pytest.fixture
def reconcile(dataset: Path, tmp_path: Path) -> Callable[..., AnnotatedResult]:
    """Reconcile tasks with the drawn dataset of six pairs, `drawn:0` … `drawn:5`."""

    def run(*tasks: Any, **settings: Any) -> AnnotatedResult:
        path = tmp_path / "export.json"
        path.write_text(json.dumps(list(tasks)))
        return reconcile_tasks(path, dataset, tmp_path / "out", ReconcileTasksSettings(**settings))

    return run


def read(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Dataset.open(folder).table(PAIR_SCHEMA.names).to_pylist()
    return rows


def rejected(folder: Path) -> dict[str, tuple[str, str]]:
    rows = pq.read_table(folder / "rejected.parquet").to_pylist()
    return {row["id"]: (row["reason"], row["detail"]) for row in rows}


def test_pictures_and_texts_stay_and_labels_are_the_annotators(
    reconcile: Callable[..., AnnotatedResult], dataset: Path
) -> None:
    result = reconcile(
        task("drawn:0", annotation(NEG, NEU)),
        task("drawn:3", annotation(NEU, POS, by=1), annotation(NEU, POS, by=2), annotation(POS, NEG, by=3)),
    )
    first, second = read(result.folder)
    before = {row["id"]: row for row in read(dataset)}
    for row in (first, second):
        changed = {name for name in row if row[name] != before[row["id"]][name]}
        assert changed <= {"label", "text_label", "image_label", "votes"}
    assert (first["label"], first["text_label"], first["image_label"]) == (0, 0, 1)
    assert (second["label"], second["text_label"], second["image_label"]) == (2, 1, 2)
    assert second["votes"] == [{"text": 1, "image": 2}, {"text": 1, "image": 2}, {"text": 2, "image": 0}]
    assert validate(result.folder, quiet=True).problems == []


def test_every_row_of_the_dataset_is_kept_or_has_its_reason(
    reconcile: Callable[..., AnnotatedResult],
) -> None:
    result = reconcile(
        task("drawn:0", annotation(POS, POS)),
        task("drawn:1", annotation(POS, NEG)),
        task("drawn:2", annotation(POS, NEU, by=1), annotation(NEG, NEU, by=2)),
        task("drawn:3", annotation(POS, None)),
        task("drawn:4"),
    )
    funnel = result.manifest.funnel
    assert (funnel.input, funnel.kept) == (6, 1) and funnel.adds_up
    assert rejected(result.folder) == {
        "drawn:1": ("label-conflict", "text positive, image negative"),
        "drawn:2": ("no-majority", "text positive negative, image neutral neutral"),
        "drawn:3": ("no-majority", "text positive, image -"),
        "drawn:4": ("not-annotated", ""),
        "drawn:5": ("not-annotated", ""),
    }


def test_pairs_says_which_rows_are_kept(reconcile: Callable[..., AnnotatedResult], dataset: Path) -> None:
    tasks = [
        task("drawn:0", annotation(POS, POS)),
        task("drawn:1", annotation(POS, NEU)),
        task("drawn:2", annotation(POS, NEG)),
        task("drawn:3", annotation(NEG, None)),
    ]
    result = reconcile(*tasks, pairs="consistent")
    assert result.manifest.name.endswith("-annotated-consistent")
    assert [row["id"] for row in read(result.folder)] == ["drawn:0"]
    reasons = {id: reason for id, (reason, _) in rejected(result.folder).items()}
    assert [reasons[f"drawn:{i}"] for i in (1, 2, 3)] == ["labels-differ", "label-conflict", "no-majority"]


def test_consistent_pairs_need_annotations_of_both(reconcile: Callable[..., AnnotatedResult]) -> None:
    only_texts = [task("drawn:0", annotation(POS, None)), task("drawn:1", annotation(NEG, None))]
    with pytest.raises(InputError, match=r"export.json: .*--pairs consistent needs both\. Annotate both, or"):
        reconcile(*only_texts, pairs="consistent")
    assert [row["label"] for row in read(reconcile(*only_texts, pairs="text").folder)] == [2, 0]


def test_ties_are_neutral_when_asked(reconcile: Callable[..., AnnotatedResult]) -> None:
    result = reconcile(
        task("drawn:0", annotation(POS, POS, by=1), annotation(NEG, POS, by=2)), ties="neutral"
    )
    assert [(row["text_label"], row["label"]) for row in read(result.folder)] == [(1, 2)]


def test_the_agreement_is_that_of_the_annotators_whoever_did_which_task(
    reconcile: Callable[..., AnnotatedResult],
) -> None:
    result = reconcile(
        task("drawn:0", annotation(POS, POS, by=1), annotation(POS, NEU, by="ana@example.org")),
        task("drawn:1", annotation(NEG, NEG, by={"id": 7, "email": "x"}), annotation(NEG, NEG, by=1)),
        task("drawn:2", annotation(NEU, NEU, by=4)),
    )
    assert result.manifest.agreement is not None
    assert result.manifest.agreement.text == result.agreement["text"] == 1.0
    assert result.agreement["image"] == pytest.approx(0.4)  # (2 - 2/3) / (4 - 2/3)


def test_one_annotator_agrees_with_nobody(reconcile: Callable[..., AnnotatedResult]) -> None:
    assert reconcile(task("drawn:0", annotation(POS, POS))).manifest.agreement is None


def test_a_person_who_answers_again_counts_once_by_the_later_answer(
    reconcile: Callable[..., AnnotatedResult],
) -> None:
    late, early = "2024-05-02T00:00:00Z", "2024-05-01T00:00:00Z"
    result = reconcile(
        task("drawn:0", annotation(POS, POS, updated_at=late), annotation(NEG, NEG, updated_at=early)),
        task("drawn:1", annotation(POS, POS)),
        task("drawn:1", annotation(NEG, NEG)),  # imported twice
    )
    assert [(row["id"], row["label"], len(row["votes"])) for row in read(result.folder)] == [
        ("drawn:0", 2, 1),
        ("drawn:1", 0, 1),
    ]
    assert result.annotations == {"counted": 2, "answered-again": 2}


def test_annotations_of_nobody_in_particular_are_of_different_people(
    reconcile: Callable[..., AnnotatedResult],
) -> None:
    result = reconcile(task("drawn:0", annotation(POS, POS, by=None), annotation(POS, POS, by=None)))
    assert len(read(result.folder)[0]["votes"]) == 2


SET_ASIDE = {
    "skipped": annotation(POS, POS, was_cancelled=True),
    "no-choice": {"completed_by": 1, "result": []},
    "no-choice, no result": {"completed_by": 1},
    "unclear-choice, two": annotation(None, POS) | {"result": [choice(QUESTIONS[0], POS, NEG)]},
    "unclear-choice, a word": annotation("happy", POS),
    "unclear-choice, a number": {"result": [choice(QUESTIONS[0], 1)]},
    "unclear-choice, asked twice": {"result": [choice(QUESTIONS[0], POS), choice(QUESTIONS[0], NEG)]},
    "unclear-choice, no value": {"result": [{"from_name": QUESTIONS[0], "value": []}]},
}


@pytest.mark.parametrize("case", SET_ASIDE)
def test_an_annotation_that_says_nothing_is_counted_by_its_reason(
    reconcile: Callable[..., AnnotatedResult], case: str
) -> None:
    result = reconcile(task("drawn:0", SET_ASIDE[case]), task("drawn:1", annotation(POS, POS)))
    assert result.annotations == {"counted": 1, case.partition(",")[0]: 1}
    assert result.manifest.notes == {"annotations": result.annotations}
    assert rejected(result.folder)["drawn:0"] == ("not-annotated", "")


def test_tasks_of_other_pairs_are_counted(reconcile: Callable[..., AnnotatedResult]) -> None:
    result = reconcile(
        task("drawn:0", annotation(POS, POS)),
        task("drawn:99", annotation(POS, POS, by=1), annotation(POS, POS, by=2)),
        task(None, annotation(POS, POS)),
        task(["drawn:0"], annotation(POS, POS)),
        {"annotations": [annotation(POS, POS)]},
    )
    assert result.annotations == {"counted": 1, "no-id": 3, "unknown-id": 2}
    assert Dataset.open(result.folder).ids == ["drawn:0"]


def test_predictions_are_no_votes(reconcile: Callable[..., AnnotatedResult]) -> None:
    with pytest.raises(InputError, match="none of its 2 tasks has an annotation of a pair in"):
        reconcile(task("drawn:0"), task("drawn:1"))


def test_choices_may_be_capitalised(reconcile: Callable[..., AnnotatedResult]) -> None:
    assert read(reconcile(task("drawn:0", annotation("Positive", " NEUTRAL "))).folder)[0]["label"] == 2


NOT_AN_EXPORT = {
    "": "not readable as JSON",
    "[{]": "not readable as JSON",
    "[" * 100_000: "not readable as JSON",
    "[" + "9" * 5000 + "]": "not readable as JSON",
    "\x1f\x8b": "not readable as JSON",
    "{}": "not a list of tasks",
    "[]": "no tasks in it",
    "[1]": "not a list of tasks",
    '[{"id": 1, "text_sentiment": "positive"}]': "task 1 has no list of annotations",
    '[{"annotations": 5}]': "task 1 has no list of annotations",
    '[{"annotations": ["x"]}]': "task 1 has no list of annotations",
    '[{"annotations": []}, {}]': "task 2 has no list of annotations",
}


@pytest.mark.parametrize("number", range(len(NOT_AN_EXPORT)))
def test_another_file_is_refused_in_one_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    content, said = list(NOT_AN_EXPORT.items())[number]
    (tmp_path / "export.json").write_text(content)
    arguments = ["reconcile-tasks", str(tmp_path / "export.json"), str(dataset)]
    assert exit_code(lambda: app(arguments, standalone_mode=False)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"export.json: {said}" in error


def test_the_export_of_a_project_with_other_questions_is_refused(
    reconcile: Callable[..., AnnotatedResult],
) -> None:
    other = {"completed_by": 1, "result": [choice("topic\x1b[31m", "cats")]}
    with pytest.raises(InputError, match=r"asks topic.*, and not text_sentiment or image_sentiment"):
        reconcile(task("drawn:0", other))


def test_the_export_of_another_dataset_is_refused_and_writes_nothing(
    reconcile: Callable[..., AnnotatedResult], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"none of its 1 tasks has an annotation of a pair .*: 1 unknown-id"):
        reconcile(task("flickr:1", annotation(POS, POS)))
    assert not (tmp_path / "out").exists()


def test_nothing_to_keep_is_told_with_the_reasons(reconcile: Callable[..., AnnotatedResult]) -> None:
    with pytest.raises(InputError, match="none of the 6 rows can be kept: 5 not-annotated, 1 label-conflict"):
        reconcile(task("drawn:0", annotation(POS, NEG)))


def test_one_task_with_countless_annotators_does_not_fill_the_memory(
    reconcile: Callable[..., AnnotatedResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvsent.build.reconcile_tasks.MAX_VOTES", 100)
    with pytest.raises(InputError, match="6 rows with 9 annotators are more votes than 100"):
        reconcile(task("drawn:0", *(annotation(POS, POS, by=n) for n in range(9))))


def test_dawid_skene_knows_an_annotator_by_name_in_any_task(
    reconcile: Callable[..., AnnotatedResult],
) -> None:
    words = [POS, NEG, POS, NEG, POS, NEG]
    tasks = [
        task(
            f"drawn:{i}",
            annotation(word, word, by="a"),
            annotation(word, word, by="b"),
            annotation(POS, POS, by="c"),
        )
        for i, word in enumerate(words)
    ]
    result = reconcile(*tasks, aggregate="dawid-skene")
    assert [row["label"] for row in read(result.folder)] == [2, 0, 2, 0, 2, 0]


def test_a_finished_output_is_replaced_only_when_asked(
    reconcile: Callable[..., AnnotatedResult], dataset: Path, tmp_path: Path
) -> None:
    reconcile(task("drawn:0", annotation(POS, POS)))
    with pytest.raises(OutputExistsError):
        reconcile(task("drawn:1", annotation(POS, POS)))
    path, out = tmp_path / "export.json", tmp_path / "out"
    reconcile_tasks(path, dataset, out, ReconcileTasksSettings(), overwrite=True)
    assert Dataset.open(out).ids == ["drawn:1"]


@pytest.mark.parametrize("place", ["nowhere.json", "."])
def test_an_export_that_is_no_file_is_a_mistake_in_usage(dataset: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError):
        reconcile_tasks(tmp_path / place, dataset, None, ReconcileTasksSettings())


def test_what_the_export_command_wrote_comes_back(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two people confirm every prediction, as Label Studio would export it."""
    monkeypatch.chdir(tmp_path)
    export(dataset, "label-studio", tmp_path / "tasks", quiet=True)
    tasks = json.loads((tmp_path / "tasks" / "tasks.json").read_text())
    for number, one in enumerate(tasks):
        result = one["predictions"][0]["result"]
        one |= {"id": number, "annotations": [{"completed_by": who, "result": result} for who in (1, 2)]}
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    run = CliRunner().invoke(app, ["reconcile-tasks", "export.json", str(dataset), "--json"])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    assert document["folder"] == "data/drawn-annotated" and document["name"] == "drawn-annotated"
    assert document["agreement"] == {"text": 1.0, "image": 1.0}
    assert document["notes"] == {"annotations": {"counted": 12}}
    assert document["settings"]["dataset_sha256"] == Dataset.open(dataset).sha256
    before, after = read(dataset), read(tmp_path / "data" / "drawn-annotated")
    assert [row["label"] for row in after] == [row["label"] for row in before]
    assert [row["image"] for row in after] == [row["image"] for row in before]


def test_the_command_tells_funnel_agreement_and_annotations(dataset: Path, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(
        json.dumps([task("drawn:0", annotation(POS, POS), annotation(NEG, NEG, by=2, was_cancelled=True))])
    )
    arguments = ["reconcile-tasks", str(path), str(dataset), "--out", str(tmp_path / "out")]
    run = CliRunner().invoke(app, arguments)
    assert "- not-annotated      5" in run.stdout
    assert "Annotations: 1 of 2 counted (1 skipped)" in run.stdout


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_hostile_members_are_counted_or_refused_and_never_crash(data: st.DataObject) -> None:
    """Any member of a good export may be anything."""
    good = task("drawn:0", annotation(POS, POS))
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, inner in list(items):
            places.append((value, key))
            walk(inner)

    walk(good)
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(JSON)
    try:
        answers = parse_export(json.dumps([good]).encode(), "export.json")
    except MvsentError:
        return
    n_votes = sum(map(len, answers.votes.values()))
    assert answers.n_annotations == n_votes + sum(answers.set_aside.values())


def test_a_dataset_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        reconcile_tasks(tmp_path / "x.json", tmp_path / "nowhere", None, ReconcileTasksSettings())


def test_rows_of_later_batches_get_their_own_labels_and_votes(
    reconcile: Callable[..., AnnotatedResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvsent.build.reconcile_tasks.BATCH_ROWS", 2)
    result = reconcile(task("drawn:3", annotation(NEU, NEG)), task("drawn:4", annotation(POS, POS)))
    assert [(row["id"], row["label"], row["votes"]) for row in read(result.folder)] == [
        ("drawn:3", 0, [{"text": 1, "image": 0}]),
        ("drawn:4", 2, [{"text": 2, "image": 2}]),
    ]
