"""timm's networks as backbones, measured against timm itself; tiny ones with random weights, nothing fetched."""

import json
import logging
import pickle
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mvsent.errors import UsageError, WeightsError
from mvsent.features import hugging_face
from mvsent.features.backbone import HALF, Backbone, Scaling, Tap, fused
from mvsent.features.backbones import load_backbone, load_named
from mvsent.features.cache import cached_maps
from mvsent.shards.reader import Dataset
from tests.hub import COMMIT, Hub, serving

timm = pytest.importorskip("timm")

NETWORKS = ("test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_mambaout", "test_nfnet")
"""A ResNet, a network with a layer after its stages, one that normalises its pooled features, a transformer,
one with channels last, and one whose convolutions change their weights."""


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("hostile-was-here"),))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub without repositories, and an empty cache."""
    with serving({}, tmp_path / "hub", monkeypatch) as kind:
        yield kind


@pytest.fixture(autouse=True)
def in_inference_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.inference_mode("trained" not in request.node.name):
        yield


def pictures(backbone: Backbone, n: int = 2) -> torch.Tensor:
    drawn = torch.randint(
        0, 256, (n, 3, backbone.size, backbone.size), generator=torch.Generator().manual_seed(0)
    )
    return drawn.byte()


def network_of(name: str, path: Path) -> nn.Module:
    """A network of timm with statistics and scales of its own; its weights are written to `path`."""
    torch.manual_seed(3)
    network = timm.create_model(name)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            value.add_(0.02 * torch.randn(value.shape))
        if key.endswith("running_var"):
            value.clamp_(min=0.5)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return network.eval()


def normalised(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    told = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(told[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert told["input_size"] == tuple(pixels.shape[1:])
    return (pixels / 255 - mean) / std


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_map_vector_and_logits_are_timms_for_the_same_weights(tmp_path: Path, name: str) -> None:
    reference = network_of(name, tmp_path / "w.safetensors")
    backbone = load_backbone(name, weights=str(tmp_path / "w.safetensors"))
    whole = load_backbone(name, weights=str(tmp_path / "w.safetensors"), whole=True)
    pixels = pictures(backbone)
    inputs = normalised(reference, pixels)
    (expected,) = reference.forward_intermediates(inputs, indices=1, norm=True, intermediates_only=True)
    if name in ("test_efficientnet", "test_nfnet"):  # a further convolution comes before the head
        expected = reference.forward_features(inputs)
    maps, vector = backbone(pixels), whole(pixels)
    assert maps.shape == (2, *backbone.shape) == (2, backbone.channels, *backbone.grid)
    close(maps, expected)
    assert vector.shape == (2, *whole.shape) == (2, whole.channels)
    close(vector, reference.forward_head(reference.forward_features(inputs), pre_logits=True))
    close(reference.get_classifier()(vector), reference(inputs))
    close(fused(backbone)(pixels), maps)
    assert maps.half().isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_every_level_is_the_one_of_features_only(tmp_path: Path, name: str) -> None:
    network_of(name, tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors")}
    reference = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
    levels = [info["module"] for info in timm.create_model(name).feature_info]
    for level, channels in zip(levels, reference.eval().feature_info.channels(), strict=True):
        backbone = load_backbone(name, tap=level, weights=overlay["file"])
        pixels = pictures(backbone, 1)
        inputs = (pixels - backbone.mean) * backbone.scale
        expected = reference(inputs)[levels.index(level)]
        assert (backbone.tap, backbone.channels) == (level, channels)
        close(backbone(pixels), expected)


def test_a_level_of_a_transformer_is_a_map_of_its_patches_and_later_blocks_are_gone(tmp_path: Path) -> None:
    reference = network_of("test_vit", tmp_path / "w.safetensors")
    backbone = load_backbone("test_vit", tap="blocks.2", weights=str(tmp_path / "w.safetensors"))
    pixels, seen = pictures(backbone), []
    reference.blocks[2].register_forward_hook(lambda module, args, output: seen.append(output))
    reference(normalised(reference, pixels))
    side = backbone.grid[0]
    close(backbone(pixels)[:, :, 1, 2], seen[0][:, 1 + side + 2])  # after the class token
    assert not any("blocks.3" in name for name in backbone.state_dict())


def test_a_batch_norm_is_folded_only_where_that_changes_nothing() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)

    pixels = torch.randint(0, 256, (2, 3, 8, 8)).byte()
    for conv, is_folded in ((nn.Conv2d(3, 4, 1), True), (Scaled(3, 4, 1), False)):
        norm = nn.BatchNorm2d(4)
        norm.running_var.fill_(3)
        trunk, at = nn.Sequential(conv, norm), Tap("", 4, (8, 8), ())
        backbone = Backbone("mine", "", trunk, "", at, scaling=Scaling(8, HALF, HALF))
        close(fused(backbone)(pixels), backbone(pixels))
        assert isinstance(fused(backbone).trunk[1], nn.BatchNorm2d) != is_folded


def test_random_weights_are_said_loudly_and_are_the_same_every_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mvsent"):
        first = load_backbone("test_vit", weights="random")
    torch.rand(3)
    assert "test_vit has RANDOM weights" in caplog.text
    before = torch.random.get_rng_state()
    assert load_backbone("test_vit", weights="random").weights_sha256 == first.weights_sha256
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "tap", "last"),
    [
        ("test_resnet", "", "layer4."),
        ("test_resnet", "layer2", "layer2."),
        ("test_convnext", "", "stages.3."),
        ("test_efficientnet", "", ("blocks.4.", "conv_head.", "bn2.")),
        ("test_vit", "", ("blocks.5.", "norm.")),
    ],
)
def test_only_the_last_stage_is_trained_when_asked(name: str, tap: str, last: str | tuple[str, ...]) -> None:
    backbone = load_backbone(name, tap=tap, weights="random").requires_grad_(False)
    parameters = backbone.last_block_parameters()
    for parameter in parameters:
        parameter.requires_grad_()
    backbone.train()(pictures(backbone)).square().sum().backward()
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    of_head = 2 if name == "test_convnext" else 0  # a normalisation that comes after the map
    assert trained and len(trained) == len(parameters) - of_head
    assert all(each.removeprefix("trunk.network.").startswith(last) for each in trained)


def test_a_network_whose_stages_timm_does_not_name_trains_as_a_whole_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("timm.models.resnet.ResNet.group_matcher")
    backbone = load_backbone("test_resnet", weights="random")
    with pytest.raises(UsageError, match=r"test_resnet: it is not known .* Use --fine-tune all"):
        backbone.last_block_parameters()


@pytest.mark.slow
def test_maps_are_cached_and_a_network_travels_to_other_processes(
    small_dataset: Path, tmp_path: Path
) -> None:
    dataset = Dataset.open(small_dataset)
    for name, whole in (("test_vit", False), ("test_resnet", True)):
        backbone = load_backbone(name, weights="random", whole=whole)
        values = cached_maps(dataset, backbone, cache_dir=tmp_path, quiet=True)
        assert values.shape == (len(dataset), *backbone.shape)
        again = pickle.loads(pickle.dumps(backbone))
        pixels = pictures(backbone)
        close(again(pixels), backbone(pixels))
    assert sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir()) == [
        "maps-test_vit",
        "vectors-test_resnet",
    ]


# Weights


def test_weights_with_other_classes_or_without_a_head_are_the_same_backbone(tmp_path: Path) -> None:
    state = network_of("test_resnet", tmp_path / "whole.safetensors").state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "run.pth")
    torch.save({**state, "fc.weight": torch.zeros(3, 96), "fc.bias": torch.zeros(3)}, tmp_path / "three.pth")
    torch.save(
        {key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "none.pth"
    )
    names = ("whole.safetensors", "run.pth", "three.pth", "none.pth")
    hashes = {load_backbone("test_resnet", weights=str(tmp_path / name)).weights_sha256 for name in names}
    assert len(hashes) == 1


def test_weights_in_their_authors_form_are_read_as_timm_reads_them(tmp_path: Path) -> None:
    state = network_of("test_convnext", tmp_path / "timm.safetensors").state_dict()
    old = [(r"stem\.", "downsample_layers.0."), (r"stages\.(\d)\.downsample", r"downsample_layers.\1")]
    old += [(r"head\.norm", "norm"), (r"head\.fc", "head"), (r"\.blocks\.", "."), ("conv_dw", "dwconv")]
    old += [(r"mlp\.fc", "pwconv")]

    def theirs(key: str) -> str:
        for ours, before in old:
            key = re.sub(ours, before, key)
        return key

    torch.save({"model": {theirs(key): value for key, value in state.items()}}, tmp_path / "theirs.pth")
    one, other = (
        load_backbone("test_convnext", weights=str(tmp_path / name))
        for name in ("timm.safetensors", "theirs.pth")
    )
    assert one.weights_sha256 == other.weights_sha256


def test_weights_of_another_network_are_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    state = network_of("test_resnet", tmp_path / "resnet.safetensors").state_dict()
    with pytest.raises(
        WeightsError,
        match=r"resnet\.safetensors: these weights do not fit: .*more\. Give a state dict of timm's test_vit",
    ):
        load_backbone("test_vit", weights=str(tmp_path / "resnet.safetensors"))
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(
        WeightsError, match=r"less\.pth: these weights do not fit: layer1\.0\.conv1\.weight is missing\."
    ):
        load_backbone("test_resnet", weights=str(tmp_path / "less.pth"))


def test_published_weights_come_from_the_hub_and_are_pinned(
    hub: type[Hub],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "published").mkdir()
    network_of("test_resnet", tmp_path / "published" / "model.safetensors")
    hub.repositories["timm/test_resnet.r160_in1k"] = tmp_path / "published"
    backbone = load_backbone("test_resnet.r160_in1k")
    assert backbone.revision == COMMIT
    by_file = load_backbone("test_resnet", weights=str(tmp_path / "published" / "model.safetensors"))
    assert backbone.weights_sha256 == by_file.weights_sha256
    with pytest.raises(WeightsError, match="has no such revision"):
        load_backbone("test_resnet", revision="b" * 40)
    hub.repositories.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert load_backbone("test_resnet", revision=COMMIT).weights_sha256 == by_file.weights_sha256
    with pytest.raises(
        WeightsError, match=r"the cache holds timm/test_resnet\.r160_in1k.*--weights PATH"
    ) as caught:
        load_backbone("test_vit")
    assert "hf download timm/test_vit.r160_in1k" in str(caught.value) and "\n" not in str(caught.value)


def test_what_timm_itself_has_fetched_is_enough_without_a_network(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published").mkdir()
    network_of("test_resnet", tmp_path / "published" / "model.safetensors")
    hub.repositories["timm/test_resnet.r160_in1k"] = tmp_path / "published"
    theirs = timm.create_model("test_resnet", pretrained=True).eval()
    hub.repositories.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    backbone = load_backbone("test_resnet")
    pixels = pictures(backbone)
    close(backbone(pixels), theirs.forward_features(normalised(theirs, pixels)))


def test_a_repository_with_a_pickle_alone_is_read_as_tensors_and_never_run(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published").mkdir()
    state = network_of("test_resnet", tmp_path / "w.safetensors").state_dict()
    torch.save(state, tmp_path / "published" / "pytorch_model.bin")
    hub.repositories["timm/test_resnet.r160_in1k"] = tmp_path / "published"
    by_file = load_backbone("test_resnet", weights=str(tmp_path / "w.safetensors"))
    assert load_backbone("test_resnet").weights_sha256 == by_file.weights_sha256
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    hub.repositories["timm/test_vit.r160_in1k"] = tmp_path / "hostile"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: cannot be read as a state_dict"):
        load_backbone("test_vit")
    assert not Path("hostile-was-here").exists()


def test_a_gated_repository_says_how_to_get_it(hub: type[Hub], tmp_path: Path) -> None:
    hub.repositories["timm/test_vit.r160_in1k"] = tmp_path
    hub.gated.add("timm/test_vit.r160_in1k")
    with pytest.raises(WeightsError, match=r"test_vit.* is gated.*hf auth login.*--weights PATH"):
        load_backbone("test_vit")


def test_a_folder_or_repository_in_timms_layout_is_a_backbone(
    hub: type[Hub],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "my network"
    folder.mkdir()
    network = network_of("test_resnet", folder / "model.safetensors")
    about = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": {**network.pretrained_cfg}}
    about["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "input_size": [3, 96, 96]}
    (folder / "config.json").write_text(json.dumps(about))
    hub.repositories["me/network"] = folder
    here, there = load_backbone(str(folder), tap="layer2"), load_backbone("me/network@main", tap="layer2")
    assert (here.name, here.size, there.name, there.revision) == ("my network", 96, "network", COMMIT)
    assert here.weights_sha256 == there.weights_sha256
    assert (here.mean.flatten() / 255).tolist() == pytest.approx([0.1, 0.2, 0.3])
    about["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (folder / "config.json").write_text(json.dumps(about))
    assert load_backbone(str(folder), tap="layer2").weights_sha256 != here.weights_sha256
    with pytest.raises(UsageError, match=r"has its own weights\. Leave out --weights"):
        load_backbone(str(folder), weights="random")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="my network: has no weights"):
        load_backbone(str(folder))


def test_without_a_network_the_answer_is_one_line_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(
        WeightsError, match=r"test_resnet are unavailable: .*hf download timm/test_resnet"
    ) as caught:
        load_backbone("test_resnet")
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_nobody_published_weights_for_says_so() -> None:
    with pytest.raises(
        WeightsError, match=r"test_coatnet are unavailable \(nobody published any.*--weights random"
    ):
        load_backbone("test_coatnet")


# Names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("convnext_tinny", "convnext_tiny"),
        ("resnet50.a1_in2k", "resnet50.a1_in1k"),
        ("efficientnet_lite3x", "efficientnet_lite3"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_one(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"no backbone {name!r}. Did you mean '{nearest}'"):
        load_backbone(name)


def test_an_unknown_tap_lists_the_levels() -> None:
    with pytest.raises(
        UsageError,
        match=r"test_resnet has no tap 'layer5'\. Did you mean 'layer\d'.*act1, layer1, layer2, layer3, layer4",
    ):
        load_backbone("test_resnet", tap="layer5", weights="random")


def test_without_timm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UsageError, match=r"no backbone 'convnext_tiny'.*pip install .mvsent\[offline\]. every name of timm"
    ):
        load_backbone("convnext_tiny")


@pytest.mark.slow
def test_a_network_that_does_not_fit_into_memory_is_refused_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hugging_face, "free_memory", lambda: 10**9)
    ways = r"vit_giant_patch14_dinov2: its weights take 4\.5 GB, and 1\.0 GB of memory are free.*--image-vector FILE"
    with pytest.raises(WeightsError, match=ways):
        load_backbone("vit_giant_patch14_dinov2")


@pytest.mark.slow
def test_a_network_of_other_than_square_pictures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(
        name for name in timm.list_pretrained() if len({*timm.get_pretrained_cfg(name).input_size[1:]}) > 1
    )
    with pytest.raises(WeightsError, match=rf"{name}: reads pictures of 3 × \d+ × \d+, not squares"):
        load_backbone(name, weights="random")


def test_an_option_takes_weights_after_the_name(tmp_path: Path) -> None:
    network_of("test_resnet", tmp_path / "w.safetensors")
    given = f"test_resnet={tmp_path / 'w.safetensors'}"
    found = load_named(given, "--image-vector", whole=True)
    assert (
        found.weights_sha256
        == load_backbone("test_resnet", weights=given.partition("=")[2], whole=True).weights_sha256
    )
