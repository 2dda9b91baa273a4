"""The vectors of images that rows name, for recipes that read `--image_folder`."""

from collections.abc import Iterable

import numpy as np

from palign.data.arguments import DataArguments
from palign.data.preferences import Preferences
from palign.models.images.encoder import ImageEncoder

__all__ = ["image_vectors", "require_same_encoder"]


def image_vectors(
    data: DataArguments,
    rows: Iterable[Preferences | None],
    *,
    store_dir: str | None = None,
    show_progress: bool = True,
) -> tuple[np.ndarray, str]:
    """Vectors (n_images, hidden) of the images in these rows, and the encoder's content key.

    Args:
        rows: rows that `data` has read; None among them is passed over.
        store_dir: where vectors are kept for the next run.

    Raises:
        ValueError: the encoder cannot be loaded, or an image does not open.
    """
    numbers = np.unique(
        np.concatenate([part.item_indices[part.item_indices >= 0] for part in rows if part is not None])
    )
    encoder = ImageEncoder.from_pretrained(data.image_model)
    vectors = encoder.vectors(data.images, numbers, store_dir=store_dir, show_progress=show_progress)
    print(f"  images   {len(numbers):,} of {len(data.images):,} files are read by {data.image_model}", flush=True)
    return vectors, encoder.fingerprint()


def require_same_encoder(name: str, of_model: str | None, given: str) -> None:
    """ValueError where a reward model was trained on vectors of another encoder than the one that is given."""
    if of_model != given:
        what = "ready vectors" if of_model is None else "images as another encoder sees them"
        raise ValueError(
            f"{name!r} was trained on {what}; --image_model must be the encoder that it was trained with, with the "
            "same weights and preparation."
        )
