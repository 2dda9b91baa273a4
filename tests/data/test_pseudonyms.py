"""Pseudonyms: the same for one key, no id in what is written, and no e-mail address pushed."""

import hashlib
import hmac
import json
import stat
from pathlib import Path

import pytest

from palign.data.loading import load_preferences
from palign.data.pseudonyms import personal_ids, pseudonym, pseudonym_key, refuse_personal_ids

ROW = {"prompt": "q", "chosen": "a", "rejected": "b"}


def write(path: Path, *people: str) -> Path:
    path.write_text("".join(json.dumps(ROW | {"annotator_id": person}) + "\n" for person in people))
    return path


def test_it_is_the_keyed_hash_of_the_id() -> None:
    key = bytes(range(32))
    expected = "p" + hmac.new(key, b"ann@example.org", hashlib.sha256).hexdigest()[:16]
    assert pseudonym("ann@example.org", key) == expected != pseudonym("ann@example.org", bytes(32))
    assert pseudonym(expected, key) == expected  # rows that palign wrote are read again


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "own.key"
    key = pseudonym_key(path)
    assert len(key) == 32 and pseudonym_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("secret")
    with pytest.raises(ValueError, match="own.key holds no key of 32 bytes"):
        pseudonym_key(path)


def test_rows_are_read_under_pseudonyms(tmp_path: Path) -> None:
    key = str(tmp_path / "own.key")
    rows = write(tmp_path / "rows.jsonl", "ann@example.org", "bob@example.org", "ann@example.org")
    read = load_preferences(rows, pseudonyms=True, pseudonym_key=key)
    other = load_preferences(write(tmp_path / "more.jsonl", "bob@example.org"), pseudonyms=True, pseudonym_key=key)
    ann, bob, again = read.annotator_ids
    assert ann == again != bob == other.annotator_ids[0]
    assert "example" not in str(read.reading) and "pseudonym" in str(read.reading)
    assert load_preferences(rows).annotator_ids[0] == "ann@example.org"


def test_which_ids_name_somebody() -> None:
    ids = ["ann@example.org", "7", "@bob", "a@b", "x y@z.org", "ann@example.org", "p0123456789abcdef", "é@ü.de"]
    assert personal_ids(ids) == ["ann@example.org", "é@ü.de"]
    with pytest.raises(ValueError, match=r"2 annotator ids look like e-mail addresses \(a…@example.org, é…@ü.de\)"):
        refuse_personal_ids(ids, "say so")
    refuse_personal_ids(["7"], "say so")
