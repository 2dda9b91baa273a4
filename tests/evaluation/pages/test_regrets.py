"""A report on a policy that regrets chose: they come first, in the page and in report.md; votes come after."""

from pathlib import Path
from typing import Any

import pytest

from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.regrets import opens_with_regrets, regret_table
from palign.evaluation.report import Report, write_report
from palign.models.files.card import decimals
from tests.worlds.reports import EVIL, judgements


def regrets(**changes: Any) -> dict[str, Any]:
    """Three policies and two types; of `pooled` the second loses most, of the others the first."""
    worst = [{"value": v, "low": v - 0.0005, "high": v + 0.0005} for v in (0.0031, 0.0042, 0.0025)]
    return {
        "types": [EVIL, "cold"], "policies": ["distill", "pooled", "prior"], "chosen": "distill",
        "values": [[0.0031, 0.001, 0.0025], [0.002, 0.0042, 0.0]], "type_weights": [0.5, 0.5],
        "policy_weights": None, "worst": worst, "worst_type": [0, 1, 0], "mean": [0.0026, 0.0026, 0.0013],
        "kl": [0.1, 0.2, 0.3], "level": 0.95,
    } | changes  # fmt: skip


def fair_report(folder: Path, **changes: Any) -> Report:
    tables = [judgements(name, (0.95, 0.8, 0.2), 15, 6) for name in ("pooled", "distill")]
    return write_report(tables, output_dir=folder, figures=FigureData(regrets=regrets(**changes)), main="distill",
                        n_resamples=20, metrics=["accuracy"], title="Fair policy")  # fmt: skip


def test_it_opens_with_the_type_that_loses_most(tmp_path: Path) -> None:
    report = fair_report(tmp_path)
    assert report.headline[0] == (
        f"distill: the type that loses most is {EVIL}, by 0.00310 (95 % interval 0.00260 to 0.00360) against a "
        "policy of its own, in units of its reward; of 3 policies measured on the same fresh prompts 1 has a smaller "
        "worst regret: prior."
    )
    assert report.headline[1].startswith("By held-out votes, distill: worst served is type")
    text = report.markdown_path.read_text(encoding="utf-8")
    assert text.index("the type that loses most") < text.index("worst served is") < text.index("## Regret")
    assert text.index("## Regret") < text.index("| prior | 0.00250") < text.index("| distill (chosen) | 0.00310")
    assert text.index("| pooled | 0.00420 (0.00370 to 0.00470) | cold |") < text.index("## Held-out votes")
    assert "## Reward models" not in text and EVIL not in text


def test_the_page_draws_regrets_first(tmp_path: Path) -> None:
    page = fair_report(tmp_path).html_path.read_text(encoding="utf-8")
    assert page.index("▼ Loses most") < page.index("▼ Worst served") < page.index("<h2>Regret</h2>")
    assert page.index("<h2>Regret</h2>") < page.index("Regret of every policy") < page.index("<h2>Held-out votes")
    assert "0.00310 (0.00260 to 0.00360) under distill" in page and "0.00370 to 0.00470; of cold" in page
    assert EVIL not in page and "<h2>The run</h2>" not in page
    pytest.importorskip("matplotlib")
    drawn = page.index("<h3>Regret of every type under every policy</h3>")
    assert page.index("<h2>Regret</h2>") < drawn < page.index("<h2>Held-out votes")


def test_the_least_of_all_is_called_so_and_no_choice_opens_nothing(tmp_path: Path) -> None:
    assert "the least worst regret of 3 policies" in fair_report(tmp_path, chosen="prior").headline[0]
    report = fair_report(tmp_path, chosen=None)
    assert "worst served is" in report.headline[0] and not opens_with_regrets(report.data)
    assert "## Reward models" in report.markdown_path.read_text(encoding="utf-8")


def test_the_table_by_hand() -> None:
    head, rows = regret_table({"figures": {"regrets": regrets(types=["warm", "cold"])}})
    assert head == ["policy", "worst regret (95 % interval)", "of", "warm", "cold", "mean regret", "KL, nats"]
    assert rows[0] == (
        ["prior", "0.00250 (0.00200 to 0.00300)", "warm", "0.00250", "0.00000", "0.00130", "0.300"],
        False,
    )
    assert [(row[0], is_chosen) for row, is_chosen in rows[1:]] == [("distill (chosen)", True), ("pooled", False)]


@pytest.mark.parametrize(("largest", "places"), [(4.2, 3), (0.42, 3), (0.1, 3), (0.042, 4), (0.0042, 5), (0.0, 3)])
def test_digits_follow_the_largest(largest: float, places: int) -> None:
    assert decimals(largest, 3) == places
