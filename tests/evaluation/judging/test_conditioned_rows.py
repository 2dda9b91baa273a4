"""A policy that was told who is asking is judged on prompts that say so; who is not known is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palign.conditioning import PolicyConditioning, WhoIsAsking, conditioning_record
from palign.data.preferences import Preferences
from palign.evaluation.judging.conditioned_rows import conditioning_note, tell_readers
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.scores import score_source
from tests.worlds.judged_models import PEOPLE, make_model, rows_of_colours, write_rows
from tests.worlds.recipes import load_recipe


def test_each_person_gets_a_prompt_of_their_own_and_equal_ones_are_shared() -> None:
    rows = Preferences.from_rows(
        {"annotator_id": person, "prompt": "p", "completions": completions}
        for person, completions in [("a", ["x", "y", "z"]), ("b", ["y", "x"]), ("c", ["x", "y"]), ("d", ["y", "z"])]
    )
    told = tell_readers(rows, WhoIsAsking({"a": 1, "b": 0, "c": 1}, 2))
    assert told.prompts == ["[reader: type 1] p", "[reader: type 0] p", "p"]
    texts = [[told.items[i] for i in row if i >= 0] for row in told.item_indices]
    assert texts == [
        [(0, "x"), (0, "y"), (0, "z")], [(1, "y"), (1, "x")], [(0, "x"), (0, "y")], [(2, "y"), (2, "z")],
    ]  # fmt: skip
    assert told.prompt_indices.tolist() == [0, 1, 0, 2] and len(told.items) == len(set(told.items)) == 7
    assert (told.ranks == rows.ranks).all() and (told.annotator_ids == rows.annotator_ids).all()


def test_messages_get_a_system_message() -> None:
    user, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}
    row = {"annotator_id": "a", "prompt": [user], "chosen": [answer], "rejected": [{**answer, "content": "y"}]}
    told = tell_readers(Preferences.from_rows([row]), WhoIsAsking({"a": 1}, 2))
    assert told.prompts == [[{"role": "system", "content": "The reader is type 1."}, user]]


def told_model(kind: str, folder: Path, conditioning: str, types: dict[str, int] | None = None) -> str:
    place = make_model(kind, folder)
    who = WhoIsAsking(types, 3) if types else None
    record = conditioning_record(PolicyConditioning(conditioning), who)
    (place / "conditioning.json").write_text(json.dumps(record), encoding="utf-8")
    return str(place)


@pytest.mark.parametrize("kind", ["causal", "adapter"])
def test_scores_are_those_of_prompts_with_the_words_of_training(kind: str, tmp_path: Path) -> None:
    types = {person: number % 3 for number, person in enumerate(PEOPLE[:4])}
    place = told_model(kind, tmp_path, "prompt", types)
    reference = str(make_model("base", tmp_path))
    rows = rows_of_colours()
    by_hand = [
        {**row, "prompt": f"[reader: type {types[row['annotator_id']]}] {row['prompt']}"}
        if row["annotator_id"] in types else row
        for row in rows
    ]  # fmt: skip
    source = recognise(place, reference=reference)
    found = score_source(source, Preferences.from_rows(rows)).scores
    (Path(place) / "conditioning.json").unlink()
    bare = recognise(place, reference=reference)
    assert (source.conditioning, bare.conditioning) == (PolicyConditioning.PROMPT, None)
    np.testing.assert_allclose(found, score_source(bare, Preferences.from_rows(by_hand)).scores, atol=1e-6)
    assert np.abs(found - score_source(bare, Preferences.from_rows(rows)).scores).max() > 1e-4


def test_what_is_told_is_noted(tmp_path: Path) -> None:
    rows = Preferences.from_rows(rows_of_colours())
    reference = str(make_model("base", tmp_path))

    def note(conditioning: str, types: dict[str, int] | None = None) -> Any:
        place = told_model("causal", tmp_path, conditioning, types)
        return conditioning_note(recognise(place, name="<me>", reference=reference), rows)

    assert note("none") is None
    assert note("adapter") == "<me> is the adapter of one prototype, and is judged here for everybody."
    assert note("prompt", dict.fromkeys(PEOPLE, 0)).endswith("the type of all 6 people is in its conditioning.json.")
    assert "but for 2 of 6 people whose type is not in its conditioning.json: their prompts are bare" in note(
        "prompt", dict.fromkeys(PEOPLE[:4], 2)
    )
    (tmp_path / "causal" / "conditioning.json").write_text("[]")
    with pytest.raises(ValueError, match="conditioning.json of .* is not what a training wrote"):
        recognise(str(tmp_path / "causal"), reference=reference)


def test_the_report_and_the_console_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = told_model("adapter", tmp_path, "prompt", dict.fromkeys(PEOPLE[:5], 1))
    rows = write_rows(tmp_path / "rows.jsonl", rows_of_colours(48))
    flags = ["--model_path", place, "--dataset_name", rows, "--output_dir", str(tmp_path / "out")]
    load_recipe("evaluate_fairness").main([*flags, "--use_cpu", "true", "--n_resamples", "60"])
    said = "adapter was trained on prompts that say who is asking, and so it reads them here, but for 1 of 6 people"
    notes = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["notes"]
    assert said in capsys.readouterr().out and notes[0].startswith(said)
