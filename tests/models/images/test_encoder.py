"""Vectors of images: those of the encoder itself, once for each file, kept by content."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, ViTConfig, ViTModel

from palign.data.image_folder import ImageFolder
from palign.models.images.encoder import ImageEncoder
from tests.worlds.drawn_images import SIZE, draw_images, save_tiny_clip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageFolder, Path]:
    path = tmp_path_factory.mktemp("images")
    draw_images(path / "pictures", n_each=2)
    return ImageFolder(path / "pictures"), save_tiny_clip(path / "clip")


def test_they_are_the_features_of_clip_at_one_length(world: tuple[ImageFolder, Path]) -> None:
    folder, clip = world
    encoder = ImageEncoder.from_pretrained(str(clip))
    vectors = encoder.vectors(folder, show_progress=False, batch_size=3)
    processor, model = CLIPImageProcessor.from_pretrained(clip), CLIPModel.from_pretrained(clip).eval()
    pixels = processor(images=[folder.open(n) for n in range(len(folder))], return_tensors="pt")
    with torch.no_grad():
        states = model.vision_model(**pixels).pooler_output
        features = model.visual_projection(states)
    wanted = features / features.norm(dim=1, keepdim=True) * 4.0  # √16
    np.testing.assert_allclose(vectors, wanted.numpy(), atol=1e-5)


def test_only_what_is_asked_for_is_read_and_kept(world: tuple[ImageFolder, Path], tmp_path: Path) -> None:
    folder, clip = world
    encoder = ImageEncoder.from_pretrained(str(clip))
    some = encoder.vectors(folder, np.array([1, 3]), store_dir=str(tmp_path), show_progress=False)
    assert some.shape == (8, 16) and not some[[0, 2]].any() and some[[1, 3]].any(1).all()
    calls = []
    embed = encoder._embed
    encoder._embed = lambda folder, numbers: calls.append(numbers) or embed(folder, numbers)
    more = encoder.vectors(folder, np.array([1, 2, 3]), store_dir=str(tmp_path), show_progress=False)
    assert calls == [[1], [2]]  # the first tells the width
    np.testing.assert_array_equal(more[[1, 3]], some[[1, 3]])


def test_a_vision_model_without_text(world: tuple[ImageFolder, Path]) -> None:
    folder, clip = world
    config = ViTConfig(hidden_size=12, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                       image_size=SIZE, patch_size=8)  # fmt: skip
    processor = CLIPImageProcessor.from_pretrained(clip)
    pooled = ImageEncoder(ViTModel(config).eval(), processor).vectors(folder, show_progress=False)
    mean = ImageEncoder(ViTModel(config, add_pooling_layer=False).eval(), processor).vectors(
        folder, show_progress=False
    )
    for vectors in (pooled, mean):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 12**0.5, rtol=1e-4)


def test_the_key_is_of_the_content(world: tuple[ImageFolder, Path], tmp_path: Path) -> None:
    clip = world[1]
    same = ImageEncoder.from_pretrained(str(clip))
    assert same.fingerprint() == ImageEncoder.from_pretrained(str(clip)).fingerprint()
    assert same.fingerprint() != ImageEncoder.from_pretrained(str(save_tiny_clip(tmp_path, seed=1))).fingerprint()


def test_what_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not be loaded as a vision model with its image processor"):
        ImageEncoder.from_pretrained(str(tmp_path))
