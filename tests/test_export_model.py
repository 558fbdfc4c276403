"""Networks as ONNX and TorchScript: the same answers for any number of pairs and words, or a clear refusal."""

import copy
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mvsent
from mvsent.config import TrainSettings
from mvsent.errors import MvsentError, OutputExistsError, UsageError
from mvsent.inference import graphs
from mvsent.inference.export_model import SUFFIX, TOLERANCE, export_model
from mvsent.inference.graphs import Graph, UnpackedBiGRU
from mvsent.models.batch import Batch, Solved
from mvsent.models.encoders import BiGRUEncoder
from mvsent.runs.train import train
from mvsent.shards.staging import lock_file, locked
from tests.test_models import ALL_MODELS, fresh, pairs

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NOT_EXPORTED = {
    "onnx": {"amgn", "hsan"},  # a loop over words; sentences that are counted
    "torchscript": {"amgn", "hsan", "hdf"},
}
ATTENTION = {name for name in ALL_MODELS if fresh(name).eval()(pairs()).attention}


def graph_of(name: str) -> Graph:
    """A fresh network with pairs of three sizes; a memory in it has a share."""
    torch.manual_seed(3)
    network, batches = (
        fresh(name).eval().requires_grad_(False),
        [pairs(5, 4), pairs(8, 12), pairs(6, 3), cut(pairs(), 1)],
    )
    if name == "dmlanet-plus":
        before = network(batches[1]).logits
        data = [replace(pairs(), image_target=torch.arange(8) % 3)]
        network.settle(lambda: data, lambda: data)
        network.share.fill_(0.5)
        assert network.memory.ruled and (network(batches[1]).logits - before).abs().max() > TOLERANCE
    if isinstance(network, Solved):
        data = [replace(pairs(), image_target=torch.arange(8) % 3)]
        network.solve(lambda: data, lambda: data)
        if name == "logistic":
            network.ruled.fill_(0.5)
    no_inputs = {"target", "text_target", "image_target"}
    names = [
        f.name for f in fields(Batch) if getattr(batches[0], f.name) is not None and f.name not in no_inputs
    ]
    return Graph(network, names, batches[0], batches[1:])


def cut(batch: Batch, n: int) -> Batch:
    return batch.map(lambda tensor: tensor[:n])


@pytest.mark.slow
@pytest.mark.parametrize("to", NOT_EXPORTED)
@pytest.mark.parametrize("name", ALL_MODELS)
def test_an_exported_model_answers_as_it_did(name: str, to: str) -> None:
    graph = graph_of(name)
    if name in NOT_EXPORTED[to]:
        with pytest.raises(MvsentError, match="--to safetensors") as raised:
            for batch in graph.trials:
                assert np.abs(graphs.FORMS[to](graph)[1](batch) - graph.run(batch)).max() <= TOLERANCE
        assert "\n" not in str(raised.value)
        return
    _, again = graphs.FORMS[to](graph)
    for batch in graph.trials:
        assert np.abs(again(batch) - graph.run(batch)).max() <= TOLERANCE


def test_most_attention_models_can_be_exported_and_dmlanet_is_one_of_them() -> None:
    assert "dmlanet" in ATTENTION - NOT_EXPORTED["onnx"]
    assert len(ATTENTION - NOT_EXPORTED["onnx"]) > len(ATTENTION) / 2


def test_a_gru_that_reads_both_ways_needs_no_packed_sequence() -> None:
    encoder = BiGRUEncoder(4, 6).eval()
    items = torch.randn(5, 7, 4)
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 0, 5])[:, None]
    with torch.no_grad():
        assert torch.allclose(encoder(items, mask), UnpackedBiGRU(encoder)(items, mask), atol=1e-6)


def test_the_network_itself_is_left_as_it_was() -> None:
    graph = graph_of("bdmla")
    before = copy.deepcopy(graph.network.state_dict())
    graph.module()
    assert any(isinstance(module, BiGRUEncoder) for module in graph.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in graph.network.state_dict().items())


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TrainSettings(
        dataset=str(small_dataset),
        weights="random",
        words="random",
        epochs=1,
        batch_size=16,
        threads=1,
        folds=[1, 2],
    )
    return train(settings, out=tmp_path_factory.mktemp("runs") / "run", quiet=True).run


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torchscript", "safetensors"])
def test_a_run_is_exported_with_what_another_program_has_to_know(run: Path, tmp_path: Path, to: str) -> None:
    out = tmp_path / "models" / f"dmlanet{SUFFIX[to]}"
    done = export_model(run, to, out, fold=2)
    assert done.difference <= TOLERANCE and done.n_pairs > 20 and f"{done.difference:.1e}" in done.words()
    about = json.loads(out.with_suffix(".json").read_text())
    assert [each["name"] for each in about["inputs"]] == ["regions", "words", "word_mask"]
    assert about["inputs"][1] == {"name": "words", "dtype": "int64", "shape": ["batch", "words"]}
    assert about["classes"] == ["negative", "neutral", "positive"] and about["fold"] == 2
    vocabulary = (out.parent / about["preprocessing"]["words"]["vocabulary"]).read_text().splitlines()
    assert vocabulary == mvsent.load(run, 2).vocabulary().words
    assert about["preprocessing"]["pictures"]["side"] == 224
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(
        [out.name, "dmlanet.json", "dmlanet.vocabulary.txt"]
    )
    with pytest.raises(OutputExistsError, match="already exists"):
        export_model(run, to, out)
    with locked(lock_file(out)), pytest.raises(UsageError, match="another mvsent process"):
        export_model(run, to, out, overwrite=True)


@pytest.mark.slow
def test_a_program_without_mvsent_gets_the_same_answers(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "dmlanet.onnx"
    export_model(run, "onnx", out, fold=1)
    model = mvsent.load(run, 1)
    examples = model.examples(texts=["sad broken day", "x"])
    examples = replace(examples, columns={**examples.columns, "has_image": np.zeros(2, np.bool_)})
    batch = next(model.batches(examples))
    given = {name: getattr(batch, name).numpy() for name in ("regions", "words", "word_mask")}
    np.savez(tmp_path / "given.npz", **given)
    code = (
        "import sys, numpy as np, onnxruntime as ort\n"
        "given = dict(np.load(sys.argv[2]))\n"
        "np.save(sys.argv[3], ort.InferenceSession(sys.argv[1]).run(['probabilities'], given)[0])\n"
        "assert 'torch' not in sys.modules and 'mvsent' not in sys.modules\n"
    )
    answered = tmp_path / "answered.npy"
    subprocess.run([sys.executable, "-c", code, out, tmp_path / "given.npz", answered], check=True)
    wanted = model.predict(texts=["sad broken day", "x"]).probabilities
    assert np.abs(np.load(answered) - wanted).max() <= TOLERANCE


@pytest.mark.slow
def test_a_network_that_answers_otherwise_afterwards_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Graph) -> tuple[bytes, graphs.Run]:
        return b"", lambda batch: graph.run(batch) + 0.01

    monkeypatch.setitem(graphs.FORMS, "onnx", wrong)
    with pytest.raises(MvsentError, match=r"differs from PyTorch by up to 0\.01"):
        export_model(run, "onnx", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_requests_that_cannot_be_met_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown 'tflite'"):
        export_model(run, "tflite")
    with pytest.raises(UsageError, match="fold 0"):
        export_model(run, "onnx", fold=0)
    with pytest.raises(UsageError, match="a file beside it"):
        export_model(run, "onnx", tmp_path / "a.json")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"onnx is not installed\. pip install"):
        export_model(run, "onnx")


def test_the_flags_of_what_is_missing_are_inputs_only_of_models_that_read_them() -> None:
    flagged = replace(pairs(), has_image=torch.arange(8) > 2, has_text=torch.arange(8) < 6)
    assert graphs.reads_flags(fresh("dmlanet-plus").eval(), flagged)
    assert not graphs.reads_flags(fresh("dmlanet").eval(), flagged)
