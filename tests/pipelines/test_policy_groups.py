"""`--log_rewards_by`: one that is named must be in the rows, and reaches the trainer."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from palign.pipelines.policies import _reward_groups
from palign.trainers.pal_grpo_config import PALGRPOConfig
from palign.trainers.policy.rows import read_prompt_rows


@pytest.mark.parametrize(
    ("column", "wanted"), [("type", []), (None, []), ("age", []), ("country", ["country"]), ("contry", ["contry"])]
)
def test_a_column_that_is_named_is_read(column: str | None, wanted: list[str], tmp_path: Path) -> None:
    script: Any = SimpleNamespace(group_columns=["age"])
    assert _reward_groups(script, SimpleNamespace(log_rewards_by=column)) == wanted
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "p", "annotator_id": 1, "age": 3, "country": "NL"}), encoding="utf-8")
    if column == "contry":
        with pytest.raises(ValueError, match="no column 'contry'. Did you mean 'country'.*--log_rewards_by"):
            read_prompt_rows(str(path), group_columns=wanted)
    else:
        assert set(read_prompt_rows(str(path), group_columns=wanted)[0]) == {"prompt", "annotator_id", *wanted}


def test_the_former_name_is_taken_with_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    common: dict[str, Any] = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "bf16": False}
    with caplog.at_level(logging.WARNING):
        former = PALGRPOConfig(group_column="country", **common)
    assert "group_column=country is a former name" in caplog.text and "log_rewards_by=country" in caplog.text
    assert former.log_rewards_by == "country" == PALGRPOConfig(log_rewards_by="country", **common).log_rewards_by
    assert PALGRPOConfig(**common).log_rewards_by == "type"
