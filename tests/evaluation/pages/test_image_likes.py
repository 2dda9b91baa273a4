"""What each type likes, as pictures: which images, and that nothing of a file but its pixels goes into a report."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from palign.data.image_folder import ImageFolder
from palign.evaluation.pages.image_likes import PIXELS, draw_image_likes, image_likes


def saved(folder: Path, n: int = 8) -> ImageFolder:
    for number in range(n):
        image = Image.new("RGB", (300, 200), (10 * number, 0, 0))
        exif = image.getexif()
        exif[315] = "somebody"  # the artist
        image.save(folder / f"{number}.jpg", exif=exif)
    return ImageFolder(folder)


def test_most_and_least_against_the_other_type(tmp_path: Path) -> None:
    """The first type likes higher numbers by twice as much as the second: the contrast rises with the number."""
    folder = saved(tmp_path)
    scores = np.stack([2.0 * np.arange(8), np.arange(8)], 1)
    first, second = image_likes(folder, ["a", "b"], folder.names, scores, np.zeros(8))
    assert [shown["name"] for shown in first["most"]] == ["7.jpg", "6.jpg", "5.jpg", "4.jpg"]
    assert [shown["name"] for shown in first["least"]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert [shown["name"] for shown in second["most"]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    content = base64.b64decode(first["most"][0]["jpeg"])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (PIXELS, PIXELS * 2 // 3) and not image.getexif()
    assert b"somebody" not in content
    assert len(draw_image_likes([first, second]).axes) == 2 * 8


def test_nothing_for_one_type_or_few_images(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    assert image_likes(folder, ["a"], folder.names, np.zeros((8, 1)), np.zeros(8)) == []
    assert image_likes(folder, ["a", "b"], folder.names[:7], np.zeros((7, 2)), np.zeros(7)) == []
