"""Images drawn in the process, a tiny encoder of images, and people who like shapes or colours."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

SIZE = 32
KINDS = [(shape, colour) for shape in ("disc", "square") for colour in ("red", "blue")]


def draw_images(folder: Path, n_each: int = 12, seed: int = 0) -> dict[str, tuple[str, str]]:
    """PNG files of discs and squares, red and blue, of many places and sizes → name → (shape, colour)."""
    rng, kinds = np.random.default_rng(seed), {}
    folder.mkdir(parents=True, exist_ok=True)
    for shape, colour in KINDS:
        for number in range(n_each):
            image = Image.new("RGB", (SIZE, SIZE), "white")
            width = int(rng.integers(12, 22))
            left, top = rng.integers(0, SIZE - width, 2).tolist()
            draw = ImageDraw.Draw(image)
            (draw.ellipse if shape == "disc" else draw.rectangle)((left, top, left + width, top + width), fill=colour)
            name = f"{shape}/{colour}_{number:02d}.png"
            (folder / shape).mkdir(exist_ok=True)
            image.save(folder / name)
            kinds[name] = (shape, colour)
    return kinds


def judged_rows(kinds: dict[str, tuple[str, str]], n_people: int = 12, n_rows: int = 30, seed: int = 0) -> list[dict]:
    """Half of the people like red and half blue, whatever the shape; a slip in ten."""
    rng, names, rows = np.random.default_rng(seed), list(kinds), []
    for person in range(n_people):
        liked = ("red", "blue")[person % 2]
        for _ in range(n_rows):
            better = str(rng.choice([name for name in names if kinds[name][1] == liked]))
            worse = str(rng.choice([name for name in names if kinds[name][1] != liked]))
            if rng.random() < 0.1:
                better, worse = worse, better
            rows.append({"annotator_id": f"{liked}_{person}", "chosen": better, "rejected": worse, "type": liked})
    return rows


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP of random weights with its image processor; random features still tell colours apart."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = CLIPConfig(
        text_config=text, vision_config={**sizes, "image_size": SIZE, "patch_size": 8}, projection_dim=16
    )
    CLIPModel(config).save_pretrained(folder)
    square = {"height": SIZE, "width": SIZE}
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=square).save_pretrained(folder)
    return folder
