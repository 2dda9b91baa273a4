"""Pseudonyms for people, and ids that name somebody.

A pseudonym is a keyed hash of an id (HMAC-SHA256, its first 64 bits): the same person has the same one in every file
that is read with the same key, and without the key nobody can try a list of e-mail addresses against it. The key is a
file of this user's, outside of every output folder. Whoever has the key can say who somebody is: to others the data
are anonymous only as far as the votes are.
"""

import contextlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["DEFAULT_KEY", "personal_ids", "pseudonym", "pseudonym_key", "refuse_personal_ids"]

DEFAULT_KEY = "~/.config/palign/pseudonym.key"
KEY_BYTES = 32
PSEUDONYM = re.compile(r"p[0-9a-f]{16}")
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^\W\d_]{2,}")


def pseudonym_key(path: str | Path | None = None) -> bytes:
    """The key in a file, drawn and written for this user alone where there is none.

    Raises:
        ValueError: the file holds no key.
    """
    place = Path(path or DEFAULT_KEY).expanduser()
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process was first
            descriptor = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(KEY_BYTES) + "\n")
    try:
        key = bytes.fromhex(place.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise ValueError(
            f"{place} holds no key of {KEY_BYTES} bytes as hex digits. Name another file with --pseudonym_key; one "
            "that is not there is made."
        )
    return key


def pseudonym(annotator_id: str, key: bytes) -> str:
    """`p` and 16 hex digits; an id that is one already stays, so that rows that palign wrote can be read again."""
    if PSEUDONYM.fullmatch(annotator_id):
        return annotator_id
    return "p" + hmac.digest(key, annotator_id.encode("utf-8", "surrogatepass"), "sha256").hex()[:16]


def personal_ids(ids: Iterable[str]) -> list[str]:
    """Those that look like e-mail addresses, each once."""
    return [name for name in dict.fromkeys(map(str, ids)) if EMAIL.fullmatch(name.strip())]


def refuse_personal_ids(ids: Iterable[str], way_out: str) -> None:
    """ValueError before ids that look like e-mail addresses are given to others.

    Args:
        way_out: how a user says that it is meant.
    """
    found = personal_ids(ids)
    if found:
        raise ValueError(
            f"{len(found)} annotator ids look like e-mail addresses ({_masked(found)}), and would be published with "
            f"the model. Read the rows with --pseudonyms true, or replace the ids; where it is meant, {way_out}."
        )


def _masked(found: Sequence[str]) -> str:
    shown = [f"{name[:1]}…@{name.rsplit('@', 1)[1]}" for name in found[:2]]
    return ", ".join(shown) + (", …" if len(found) > 2 else "")
