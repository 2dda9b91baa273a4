"""Rows that name images: numbered by the folder, known by their names, refused where a file is missing or broken."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from palign.data.image_folder import ImageFolder
from palign.data.preferences import Preferences
from palign.data.trained_rows import hash_judgements


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name, colour in {"b.png": "red", "a.JPG": "blue", "sub/c.png": "green"}.items():
        Image.new("RGB", (4, 3), colour).save(tmp_path / name, "PNG" if name.endswith("png") else "JPEG")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def rows_of(*pairs: tuple[str, str], **columns: str) -> Preferences:
    return Preferences.from_rows([{"annotator_id": "w", "chosen": a, "rejected": b, **columns} for a, b in pairs])


def test_names_become_numbers_and_stay_known(folder: Path) -> None:
    images = ImageFolder(folder)
    assert images.names == ["a.JPG", "b.png", "sub/c.png"]
    rows = images.as_items(rows_of(("sub/c.png", "a.JPG"), ("b.png", "./sub/c.png"), prompt="Which one?"))
    assert rows.item_indices.tolist() == [[2, 0], [1, 2]] and rows.items is None
    assert rows.column("prompt").tolist() == ["Which one?"] * 2
    assert rows.to_rows()[0] == {
        "annotator_id": "w", "chosen": "sub/c.png", "rejected": "a.JPG", "prompt": "Which one?",
    }  # fmt: skip
    assert rows.select([1]).item_text(2) == "sub/c.png"


def test_rankings_keep_their_padding(folder: Path) -> None:
    rows = Preferences.from_rows([
        {"annotator_id": "w", "completions": ["a.JPG", "b.png", "sub/c.png"]},
        {"annotator_id": "w", "completions": ["b.png", "a.JPG"]},
    ])  # fmt: skip
    assert ImageFolder(folder).as_items(rows).item_indices.tolist() == [[0, 1, 2], [1, 0, -1]]


def test_training_rows_are_known_though_the_folder_grew(folder: Path) -> None:
    before = hash_judgements(ImageFolder(folder).as_items(rows_of(("b.png", "sub/c.png"))))
    Image.new("RGB", (4, 4)).save(folder / "0.png")  # stands before all others
    grown = ImageFolder(folder).as_items(rows_of(("sub/c.png", "b.png"), ("0.png", "b.png")))
    assert grown.item_indices[0].tolist() == [3, 2]
    assert np.isin(hash_judgements(grown), before).tolist() == [True, False]


def test_images_are_upright_and_in_rgb(folder: Path) -> None:
    image = Image.new("L", (6, 2))
    exif = image.getexif()
    exif[274] = 6  # turned by a quarter
    image.save(folder / "turned.jpg", exif=exif)
    images = ImageFolder(folder)
    shown = images.open(images.names.index("turned.jpg"))
    assert shown.size == (2, 6) and shown.mode == "RGB"


@pytest.mark.parametrize("name", ["x.png", "../b.png", "/etc/hostname", "notes.txt", "sub"])
def test_a_name_that_is_no_image_here(folder: Path, name: str) -> None:
    with pytest.raises(ValueError) as error:
        ImageFolder(folder).as_items(rows_of(("b.png", "a.JPG"), ("b.png", name)))
    assert str(error.value).startswith(f"Row 1 (counting from 0), completion 2: '{name}' is no image file below")


def test_images_that_do_not_open_are_counted(folder: Path) -> None:
    for number in range(4):
        (folder / f"broken_{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nand then nothing")
    pairs = [(f"broken_{number}.png", "b.png") for number in range(4)]
    with pytest.raises(
        ValueError, match=r"^4 of the images that rows name do not open: broken_0.png \(.*; …\. Replace"
    ):
        ImageFolder(folder).as_items(rows_of(*pairs))
    ImageFolder(folder).as_items(rows_of(("b.png", "a.JPG")))  # what no row names is not looked at


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no image file"):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        ImageFolder(tmp_path / "missing")
