"""A picture that a notebook shows and a file keeps."""

from dataclasses import dataclass
from pathlib import Path

from palign.writing import write_whole

__all__ = ["Drawing"]


@dataclass(frozen=True)
class Drawing:
    """One picture as SVG; the last line of a notebook's cell shows it.

    Attributes:
        svg: the whole element. It holds no script, and names in it are text.
        title: what it shows, in a few words.
    """

    svg: str
    title: str

    def _repr_html_(self) -> str:
        return f'<div style="max-width:32rem;background:#fff">{self.svg}</div>'

    def __repr__(self) -> str:
        return f"Drawing({self.title!r}; the last line of a cell shows it, .save('picture.svg') keeps it)"

    def save(self, path: str | Path) -> Path:
        """Write it as an .svg file; returns where.

        Raises:
            ValueError: another ending.
        """
        if Path(path).suffix != ".svg":
            raise ValueError(f"{str(path)!r} does not end in .svg, which is what a Drawing is written as.")
        write_whole(Path(path), self.svg)
        return Path(path)
