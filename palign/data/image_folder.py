"""Images of a folder as the items of rows: a row names their files, and palign numbers them.

The number of an image is its place among all image files of the folder, in the order of their paths. What a row is
known by afterwards (hashes of training rows, held_out.jsonl, reports) is the name, so that further files in the folder
change nothing.
"""

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from palign.data.preferences import Preferences

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "ImageFolder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SHOWN = 3  # names in a message


class ImageFolder:
    """The image files below a folder.

    Args:
        path: the folder; sub-folders are looked through, and a row names their files as `sub/cat.png`.

    Attributes:
        names: paths from the folder, with slashes, sorted.
        number_of: name → its place among them.

    Raises:
        ValueError: no such folder, or no image file in it.
        ImportError: Pillow is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import PIL.Image  # noqa: F401
        except ImportError as error:
            raise ImportError('Images are read by Pillow, which is not here: pip install "palign[images]".') from error
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"--image_folder is {str(path)!r}, and there is no such folder.")
        files = (file for file in self.path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        self.names = sorted(file.relative_to(self.path).as_posix() for file in files)
        if not self.names:
            raise ValueError(
                f"--image_folder {str(path)!r} holds no image file; looked for {', '.join(SUFFIXES)}, also in "
                "sub-folders."
            )
        self.number_of = {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def as_items(self, rows: Preferences) -> Preferences:
        """Rows whose completions are names of files here → rows of vectors, one for each file, under these names.

        A prompt goes on as the column `prompt`; heads do not read it.

        Raises:
            ValueError: a completion that is no name of an image here, or an image that does not open; all are counted.
        """
        if not rows.is_text:
            raise ValueError("These rows name vectors; with --image_folder rows name image files.")
        named = [(number, _normal(text)) for number, (_, text) in enumerate(rows.items)]
        self._require_known(rows, named)
        table = np.array([self.number_of[name] for _, name in named], dtype=np.int64)
        self.require_readable(np.unique(table[rows.item_indices[rows.item_indices >= 0]]))
        items = np.where(rows.item_indices >= 0, table[rows.filled_item_indices], -1)
        columns = dict(rows.columns)
        if any(rows.prompts):
            columns["prompt"] = np.array([rows.prompts[number] for number in rows.prompt_indices], dtype=object)
        return replace(
            rows,
            item_indices=items,
            prompt_indices=np.full(len(rows), -1),
            prompts=None,
            items=None,
            columns=columns,
            item_names=self.names,
        )

    def require_readable(self, numbers: Iterable[int]) -> None:
        """Look into each of these files.

        Raises:
            ValueError: some do not open; the first are named, all are counted.
        """
        from PIL import Image

        bad = []
        for number in numbers:
            try:
                with warnings.catch_warnings(), Image.open(self.path / self.names[number]) as image:
                    warnings.simplefilter("error", Image.DecompressionBombWarning)
                    image.verify()
            except Exception as error:  # Pillow raises whatever the reader of a format meets
                bad.append(f"{self.names[number]} ({_first_line(error)})")
        if bad:
            raise ValueError(
                f"{len(bad)} of the images that rows name do not open: {'; '.join(bad[:SHOWN])}"
                f"{'; …' if len(bad) > SHOWN else ''}. Replace the files, or drop their rows."
            )

    def open(self, number: int) -> "Image":
        """One image, upright, in RGB.

        Raises:
            ValueError: it does not open.
        """
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings(), Image.open(self.path / self.names[number]) as image:
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                return ImageOps.exif_transpose(image).convert("RGB")
        except Exception as error:
            raise ValueError(f"{self.names[number]} does not open as an image ({_first_line(error)}).") from error

    def _require_known(self, rows: Preferences, named: list[tuple[int, str]]) -> None:
        strange = [(number, name) for number, name in named if name not in self.number_of]
        if not strange:
            return
        row, place = np.argwhere(rows.item_indices == strange[0][0])[0].tolist()
        shown = str(rows.items[strange[0][0]][1])[:80]
        raise ValueError(
            f"Row {row} (counting from 0), completion {place + 1}: {shown!r} is no image file below "
            f"{str(self.path)!r}; {len(strange)} of {len(named)} completions are none. With --image_folder they are "
            f"names of files as seen from the folder, such as {self.names[0]!r}."
        )


def _normal(text: Any) -> str:
    """A name as the listing has it; a name that leaves the folder stays one that is not there."""
    return PurePosixPath(text.replace("\\", "/")).as_posix() if isinstance(text, str) and text else str(text)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
