"""The images that each type likes most and least, against the others, as small pictures in the report."""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from palign.data.image_folder import ImageFolder
from palign.evaluation.pages.figures import WIDTH
from palign.evaluation.pages.report_keys import ImageLikesRecord
from palign.evaluation.pages.svg import INK, isolated, shorten
from palign.evaluation.pages.type_likes import extremes, mean_contrasts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_image_likes", "image_likes"]

N_SHOWN = 4  # images most liked, and as many least liked
PIXELS = 96  # of the longer side of a picture in the report
MOST_TYPES = 12
LINE = 0.95  # inches of a type


def image_likes(
    folder: ImageFolder, names: Sequence[str], texts: Sequence[str], scores: np.ndarray, rows: np.ndarray
) -> list[ImageLikesRecord]:
    """A record for each type; nothing for one type alone, or for fewer images than are shown.

    Args:
        folder: where the images lie.
        names: (n_types,).
        texts: (n,) names of files, one for each completion.
        scores: (n, n_types) reward of each completion to each type.
        rows: (n,) which row each completion stands in.
    """
    if len(names) < 2 or len(names) > MOST_TYPES or len(set(texts)) < 2 * N_SHOWN:
        return []
    keys, mean = mean_contrasts(texts, scores, rows)
    small = {}
    records: list[ImageLikesRecord] = []
    for k, name in enumerate(names):
        sides = [[str(keys[i]) for i in part] for part in extremes(mean[:, k], N_SHOWN)]
        for shown in (*sides[0], *sides[1]):
            if shown not in small:
                small[shown] = _small(folder, folder.number_of[shown])
        most, least = ([{"name": shown, "jpeg": small[shown]} for shown in side] for side in sides)
        records.append({"type": name, "most": most, "least": least})
    return records


def draw_image_likes(records: Sequence[ImageLikesRecord]) -> "Figure":
    """A line of pictures for each type: at the left what it likes most, at the right least."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(WIDTH, LINE * len(records)), layout="constrained")
    axes = figure.subplots(len(records), 2 * N_SHOWN, squeeze=False)
    for line, record in zip(axes, records, strict=True):
        for axis, shown in zip(line, [*record["most"], *reversed(record["least"])], strict=True):
            with Image.open(io.BytesIO(base64.b64decode(shown["jpeg"]))) as image:
                axis.imshow(np.asarray(image))
            axis.axis("off")
        line[0].set_title(isolated(f"{shorten(record['type'], 24)}: most"), color=INK, loc="left")
        line[-1].set_title("least", color=INK, loc="right")
    return figure


def _small(folder: ImageFolder, number: int) -> str:
    """A JPEG of it in base64, drawn anew: nothing of the file but its pixels goes into a report."""
    image, file = folder.open(number), io.BytesIO()
    image.thumbnail((PIXELS, PIXELS))
    image.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode("ascii")
