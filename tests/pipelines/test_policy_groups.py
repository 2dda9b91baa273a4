"""`--group_column`: one that is named must be in the rows, and reaches the trainer."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palign.pipelines.policies import _reward_groups
from palign.trainers.policy.rows import read_prompt_rows


@pytest.mark.parametrize(
    ("column", "wanted"), [("type", []), (None, []), ("age", []), ("country", ["country"]), ("contry", ["contry"])]
)
def test_a_column_that_is_named_is_read(column: str | None, wanted: list[str], tmp_path: Path) -> None:
    script: Any = SimpleNamespace(group_columns=["age"])
    assert _reward_groups(script, SimpleNamespace(group_column=column)) == wanted
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "annotator_id": 1, "age": 3, "country": "NL"}), encoding="utf-8")
    if column == "contry":
        with pytest.raises(ValueError, match="no column 'contry'. Did you mean 'country'.*--group_column"):
            read_prompt_rows(str(path), group_columns=wanted)
    else:
        assert set(read_prompt_rows(str(path), group_columns=wanted)[0]) == {"prompt", "annotator_id", *wanted}
