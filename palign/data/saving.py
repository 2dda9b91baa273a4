"""Preferences back to a file that `load_preferences` reads."""

import json
from pathlib import Path

from palign.data.preferences import Preferences

__all__ = ["save_preferences"]


def save_preferences(prefs: Preferences, path: str | Path) -> None:
    """Write one JSON object per row (UTF-8), under the standard column names; missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in prefs.to_rows():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
