"""A folder with a CLIP or a ViT as a backbone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mvsent.errors import UsageError, WeightsError
from mvsent.features.backbone import fused
from mvsent.features.backbones import load_backbone
from mvsent.features.cache import cached_maps
from mvsent.shards.reader import Dataset
from tests.tiny_models import write_bert, write_clip

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.25, 0.2],
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
    }
    return write_clip(tmp_path_factory.mktemp("models") / "clip", settings)


def pixels(n: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)


def test_a_clips_map_is_its_patches_row_by_row_without_the_class_token(clip: Path) -> None:
    backbone = load_backbone(str(clip))
    assert (backbone.name, backbone.size, backbone.channels, backbone.grid) == ("clip", 32, 12, (4, 4))
    picture = pixels()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.1, 0.2, 0.3], [0.5, 0.25, 0.2]))
    whole = transformers.CLIPModel.from_pretrained(clip).vision_model
    with torch.inference_mode():
        states = whole(pixel_values=(picture / 255 - mean) / std).last_hidden_state  # [2, 17, 12]
        maps = backbone(picture)
    assert maps.shape == (2, 12, 4, 4)
    assert torch.allclose(maps[:, :, 1, 2], states[:, 1 + 4 * 1 + 2], atol=1e-5)
    assert torch.allclose(maps.flatten(2).transpose(1, 2), states[:, 1:], atol=1e-5)


def test_without_a_preprocessor_pixels_are_scaled_to_minus_one_and_one(tmp_path: Path) -> None:
    backbone = load_backbone(str(write_clip(tmp_path / "clip")))
    assert backbone.size == 32
    scaled = [((torch.tensor(v) - backbone.mean) * backbone.scale).unique().tolist() for v in (0.0, 255.0)]
    assert scaled == [[-1.0], pytest.approx([1.0])]


def test_the_same_weights_under_another_normalisation_are_another_backbone(
    clip: Path, tmp_path: Path
) -> None:
    plain = load_backbone(str(write_clip(tmp_path / "clip")))
    assert plain.weights_sha256 != load_backbone(str(clip)).weights_sha256
    assert plain.weights_sha256 == load_backbone(str(tmp_path / "clip")).weights_sha256
    raw = load_backbone(str(write_clip(tmp_path / "raw", {"do_normalize": False, "image_mean": [0.5] * 3})))
    assert raw.mean.unique().tolist() == [0.0]


def test_a_plain_vit_and_a_siglip_are_backbones_too(tmp_path: Path) -> None:
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 12}
    vision = {**layers, "image_size": 32, "patch_size": 16}
    text = {**layers, "vocab_size": 20, "max_position_embeddings": 8}
    vit = transformers.ViTModel(transformers.ViTConfig(**vision))
    siglip = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    for name, model in (("vit", vit), ("siglip", siglip)):
        model.save_pretrained(tmp_path / name)
        backbone = load_backbone(str(tmp_path / name))
        assert backbone(pixels()).shape == (2, 12, 2, 2), name
        assert backbone.weights_sha256 == load_backbone(str(tmp_path / name)).weights_sha256


def test_its_maps_are_cached_in_half_precision(clip: Path, small_dataset: Path, tmp_path: Path) -> None:
    dataset, backbone = Dataset.open(small_dataset), load_backbone(str(clip))
    maps = cached_maps(dataset, backbone, cache_dir=tmp_path, quiet=True)
    assert maps.shape == (len(dataset), 12, 4, 4)
    assert maps.dtype == np.float16
    assert np.isfinite(maps).all()
    picture = pixels()
    assert torch.allclose(fused(backbone)(picture), backbone(picture), atol=1e-5)


def test_only_the_last_layer_is_trained_when_asked(clip: Path) -> None:
    backbone = load_backbone(str(clip)).requires_grad_(False)
    last = backbone.last_block_parameters()
    for parameter in last:
        parameter.requires_grad_(True)
    backbone(pixels()).square().sum().backward()
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    assert trained
    assert all(".layers.1." in name for name in trained)
    assert len(trained) == len(last)


def test_a_folder_has_its_own_weights_and_one_map(clip: Path) -> None:
    for wrong in ({"weights": "random"}, {"tap": "mixed_5b"}):
        with pytest.raises(UsageError, match="Leave out --weights and --tap"):
            load_backbone(str(clip), **wrong)


def test_a_folder_without_a_picture_half_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="bert: not a vision transformer"):
        load_backbone(str(write_bert(tmp_path / "bert")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"empty: not the folder of a transformer.*config\.json"):
        load_backbone(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "not a JSON object"),
        ("{", "not a JSON object"),
        (json.dumps({"size": 24}), "not a vision transformer"),
        (json.dumps({"image_mean": ["grey"]}), "not a vision transformer"),
        (json.dumps({"image_mean": [0.5]}), "not a vision transformer"),
    ],
)
def test_a_preprocessor_that_does_not_fit_is_refused(tmp_path: Path, content: str, said: str) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(content)
    with pytest.raises(WeightsError, match=said):
        load_backbone(str(folder))
