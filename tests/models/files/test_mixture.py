"""A mixture on disk: what comes back, what the card says, and files that cannot be read."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from palign.data.annotators import AnnotatorIndex
from palign.models.files.mixture import (
    MixtureRecord,
    load_mixture,
    mixture_card,
    named_base,
    packed_prompts,
    save_mixture,
)
from palign.writing import SavingError
from tests.worlds.colour import colour_lm, colour_tokenizer

IDS = ["../../etc/x", "ü <script>alert(1)</script>", "7", "a|b"]
GAMMA = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.04, 0.95, 0.01]])


def record(**changes: Any) -> MixtureRecord:
    values = {
        "annotators": AnnotatorIndex(IDS), "responsibilities": GAMMA, "n_rows": np.array([1, 20, 300, 4000]),
        "mixing_weights": np.array([0.1, 0.2, 0.7]), "beta": 0.1, "max_length": 512, "base_model": "owner/name",
        "history": [{"round": 1, "mixture/evidence": -0.5}], "details": {"seed": 3, "checks": []},
    }  # fmt: skip
    return MixtureRecord(**(values | changes))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_mixture(record(), tmp_path / "new" / "folder")
    loaded = load_mixture(tmp_path / "new" / "folder")
    assert loaded.annotators.ids == IDS
    np.testing.assert_array_equal(loaded.responsibilities, GAMMA)
    np.testing.assert_array_equal(loaded.mixing_weights, [0.1, 0.2, 0.7])
    assert loaded.n_rows.tolist() == [1, 20, 300, 4000] and loaded.n_types == 3
    assert (loaded.beta, loaded.max_length, loaded.base_model) == (0.1, 512, "owner/name")
    assert loaded.history == [{"round": 1, "mixture/evidence": -0.5}]
    assert loaded.details == {"seed": 3, "checks": []}
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "README.md", "mixture.json", "responsibilities.parquet",
    ]  # fmt: skip


def test_a_mixture_knows_the_prompts_it_was_trained_on(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "ü?"}]
    save_mixture(record(details={"trained_prompts": packed_prompts(["a", asked, "b"], np.array([1, 0, 1]))}), tmp_path)
    loaded = load_mixture(tmp_path)
    assert loaded.was_trained_on(["b", "a", asked, [asked[0] | {"content": "u?"}]]).tolist() == [
        False,
        True,
        True,
        False,
    ]
    assert record().was_trained_on(["a"]) is None


def test_the_table_of_people_can_be_read_without_us(tmp_path: Path) -> None:
    save_mixture(record(), tmp_path)
    table = pd.read_parquet(tmp_path / "responsibilities.parquet")
    assert table["annotator_id"].tolist() == IDS
    assert table["type"].tolist() == [0, 0, 2, 1]
    half = 0.2 * math.log(5) + 0.3 * math.log(10 / 3) + 0.5 * math.log(2)
    sure = -(0.04 * math.log(0.04) + 0.95 * math.log(0.95) + 0.01 * math.log(0.01))
    np.testing.assert_allclose(table["entropy"], [0.0, math.log(2), half, sure], atol=1e-12)
    np.testing.assert_array_equal(table[["type_0", "type_1", "type_2"]], GAMMA)


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    save_mixture(record(), tmp_path)
    one = {"annotators": AnnotatorIndex(["z"]), "responsibilities": np.ones((1, 1)), "n_rows": np.array([2])}
    save_mixture(record(mixing_weights=np.ones(1), base_model=None, **one), tmp_path)
    loaded = load_mixture(tmp_path)
    assert (loaded.n_types, loaded.annotators.ids, loaded.base_model) == (1, ["z"], None)


def test_an_interrupted_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_mixture(record(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("palign.writing.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_mixture(record(beta=9.0), tmp_path)
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())


def test_a_base_that_does_not_fit_on_the_disk_is_told(small_disk: Path) -> None:
    """safetensors' own error has no path and is no OSError."""
    model, tokenizer = colour_lm(), colour_tokenizer()
    (small_disk / "fill").write_bytes(b"0" * (2**20 - 65536))
    with pytest.raises(SavingError, match=f"^base_model could not be written to '{small_disk}/base_model': its disk"):
        named_base(model, tokenizer, small_disk)
    assert not model.name_or_path and not list((small_disk / "base_model").iterdir())


def test_the_card_counts_people_and_names_nobody() -> None:
    card = mixture_card(record())
    assert "Mixture of 3 preference types" in card and "annotator, on owner/name." in card
    assert "4,321\njudgements of 4 annotators" in card
    assert "| `type_0` | 10.0% | 2 |" in card and "| `type_2` | 70.0% | 1 |" in card
    assert "50% of the annotators belong to one type" in card  # 1.0 and 0.95 are above .9
    assert "script" not in card and "etc/x" not in card
    assert "the folder `base_model`" in mixture_card(record(base_model=None))
    assert "## Checks" not in card


def test_the_card_tells_of_checks() -> None:
    checks = [{"name": "restarts", "verdict": "look", "value": 0.5, "message": "Starts <b>disagree</b> on `a|b`."}]
    card = mixture_card(record(details={"checks": checks}))
    assert "## Checks" in card and "restarts: **look**" in card
    assert "<b>" not in card


def edit(folder: Path, **changes: Any) -> None:
    words = json.loads((folder / "mixture.json").read_text(encoding="utf-8")) | changes
    words = {name: value for name, value in words.items() if value != "gone"}
    (folder / "mixture.json").write_text(json.dumps(words), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "mixture.json").unlink(), "lacks mixture.json. Give a folder that"),
        (lambda f: (f / "responsibilities.parquet").unlink(), "lacks responsibilities.parquet"),
        (lambda f: (f / "mixture.json").write_text("{'a': 1"), "mixture.json is not JSON"),
        (lambda f: (f / "mixture.json").write_text("[1]"), "mixture.json"),
        (lambda f: edit(f, format=2), "format 2; this version reads 1"),
        (lambda f: edit(f, mixing_weights="gone"), "lacks mixing_weights"),
        (lambda f: edit(f, n_types=4, mixing_weights=[0.25] * 4), "lacks type_3"),
        (lambda f: edit(f, mixing_weights=[0.5, 0.5]), "the mixing weights of 3 types have the shape"),
        (lambda f: (f / "responsibilities.parquet").write_bytes(b"PAR1 no"), "responsibilities.parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, harm: Any, message: str) -> None:
    save_mixture(record(), tmp_path)
    harm(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_mixture(tmp_path)
