"""What other catalogues know of a dataset: Croissant by its own checker, the card by Hugging Face's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mvsent.pairs import PAIR_SCHEMA
from mvsent.shards.manifest import Manifest
from mvsent.shards.reader import Dataset
from mvsent.shards.writer import DatasetWriter
from tests.drawing import draw_pairs
from tests.test_export import HOSTILE_TEXTS, with_columns

mlcroissant = pytest.importorskip("mlcroissant")


def described(dataset: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((dataset / "croissant.json").read_text(encoding="utf-8"))
    return document


def complaints(dataset: Path) -> str:
    """What mlcroissant's checker says, errors and warnings; errors are raised."""
    report: str = mlcroissant.Dataset(jsonld=str(dataset / "croissant.json")).metadata.ctx.issues.report()
    return report


@pytest.mark.parametrize("name", ["mvsa-single", "flickr", "getty", "my own/../<b>dataset</b>"])
def test_every_dataset_is_written_with_a_croissant_that_passes_its_own_checker(
    tmp_path: Path, name: str
) -> None:
    pairs = with_columns(draw_pairs(4), license=["CC BY 2.0", ']} " <script>', None, "CC BY 2.0"])
    with DatasetWriter(tmp_path / "dataset", name, settings={}, shard_size=3) as writer:
        writer.write(pairs)
        writer.finish(4)
    assert complaints(tmp_path / "dataset") == ""
    assert described(tmp_path / "dataset")["name"] == name


def test_the_checker_would_notice_a_missing_member(small_dataset: Path) -> None:
    document = described(small_dataset)
    document["recordSet"][1]["field"][0]["source"]["fileSet"]["@id"] = "nowhere"  # type: ignore[index]
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=document)


def test_it_names_every_column_and_every_shard_with_its_hash(small_dataset: Path) -> None:
    metadata = mlcroissant.Dataset(jsonld=str(small_dataset / "croissant.json")).metadata
    pairs = next(records for records in metadata.record_sets if records.name == "pairs")
    assert [field.name for field in pairs.fields] == PAIR_SCHEMA.names
    files = {one.content_url: one.sha256 for one in metadata.distribution if hasattr(one, "sha256")}
    assert files == {shard.path: shard.sha256 for shard in Manifest.load(small_dataset).shards}


@pytest.mark.parametrize(
    ("name", "license", "citation"),
    [
        ("mvsa-single", "MVSA is given out for research", "Niu, Teng"),
        ("flickr-2020", "https://www.flickr.com/help/terms/api", "arXiv:2012.08256"),
        ("getty", "https://www.gettyimages.com/eula", "arXiv:2012.08256"),
        ("mine", "unknown", "arXiv:2012.08256"),
    ],
)
def test_it_names_licence_and_citation_of_the_source(
    make_dataset: Callable[..., Path], name: str, license: str, citation: str
) -> None:
    dataset = make_dataset(draw_pairs(1), name=name)
    document = described(dataset)
    assert license in str(document["license"])
    assert citation in str(document["citeAs"])
    assert citation in (dataset / "README.md").read_text()


def test_mlcroissant_reads_the_pairs_back(make_dataset: Callable[..., Path]) -> None:
    texts = [text or "not empty" for text in HOSTILE_TEXTS]
    dataset = make_dataset(with_columns(draw_pairs(len(texts)), text=texts), shard_size=5)
    records = list(mlcroissant.Dataset(jsonld=str(dataset / "croissant.json")).records("pairs"))
    rows = {row["id"]: row for row in Dataset.open(dataset).table(PAIR_SCHEMA.names).to_pylist()}
    assert len(records) == len(rows) == len(texts)
    for record in records:
        row = rows[record["pairs/id"].decode()]
        assert record["pairs/text"].decode() == row["text"]
        assert record["pairs/label"] == row["label"]
        assert record["pairs/image"].size == (96, 72)
        assert record["pairs/votes"] == [
            {"pairs/votes/text": vote["text"], "pairs/votes/image": vote["image"]} for vote in row["votes"]
        ]


def test_the_card_s_metadata_is_what_hugging_face_takes(make_dataset: Callable[..., Path]) -> None:
    """`DatasetCard.validate` asks the hub; here its parser reads the YAML, and the words are looked up in what
    the hub's documentation allows."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    hostile = 'flickr "] \n---\n# <b>: {x'
    for name in ("mvsa-single", "flickr", "getty", "mine"):
        dataset = make_dataset(draw_pairs(4), name=name)
        card = huggingface_hub.DatasetCard((dataset / "README.md").read_text(encoding="utf-8"))
        data = card.data.to_dict()
        assert isinstance(card.data, huggingface_hub.DatasetCardData)
        assert data["pretty_name"] == name
        with_address = name in ("flickr", "getty")
        assert data["license"] == ("other" if with_address else "unknown")
        assert data.get("license_link", "").startswith("https://") == with_address
        assert data["size_categories"] == ["n<1K"]
        assert data["task_categories"] == ["image-classification", "text-classification"]
        assert data["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
        assert [feature["name"] for feature in data["dataset_info"]["features"]] == PAIR_SCHEMA.names
    manifest = Manifest.load(dataset).model_copy(update={"name": hostile})
    from mvsent.shards.card import card as write_card

    assert huggingface_hub.DatasetCard(write_card(manifest, {})).data.pretty_name == hostile


def test_hugging_face_streams_the_dataset(small_dataset: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    streamed = datasets.load_dataset(
        str(small_dataset), streaming=True, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(streamed, datasets.IterableDataset)
    rows = Dataset.open(small_dataset).table(["id", "label", "text"]).to_pylist()
    found = list(streamed)
    assert [{name: row[name] for name in ("id", "label", "text")} for row in found] == rows
    assert found[0]["image"].size == (96, 72)
    assert streamed.features["label"].names == ["negative", "neutral", "positive"]
