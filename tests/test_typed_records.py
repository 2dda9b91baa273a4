"""The check of written records against TypedDicts sees what it should."""

from typing import Any, NotRequired, TypedDict

import pytest

from tests.worlds.typed_records import keys_named, keys_seen


class _Inner(TypedDict):
    number: float | None
    name: NotRequired[str]


class _Outer(TypedDict):
    rows: list[_Inner]
    by_name: dict[str, _Inner]
    n: int


GOOD = {"rows": [{"number": 1}, {"number": None, "name": "a"}], "by_name": {"b": {"number": 0.5}}, "n": 2}


def test_what_is_right_passes_and_says_what_it_met() -> None:
    assert keys_seen(GOOD, _Outer) == keys_named(_Outer) == {
        (_Outer, "rows"), (_Outer, "by_name"), (_Outer, "n"), (_Inner, "number"), (_Inner, "name"),
    }  # fmt: skip
    assert (_Inner, "name") not in keys_seen(GOOD | {"rows": []}, _Outer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": 1}, "'more'"),
        ({"rows": [{}]}, "'number'"),
        ({"rows": [{"number": 1, "nam": "a"}]}, "'nam'"),
        ({"rows": [{"number": "1"}]}, "no float"),
        ({"by_name": {"b": {"number": 0.5, "name": None}}}, "no str"),
        ({"n": True}, "no int"),
        ({"n": 0.5}, "no int"),
    ],
)
def test_what_is_wrong_is_seen(change: dict[str, Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        keys_seen(GOOD | change, _Outer)
