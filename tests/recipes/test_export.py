"""The command that exports: whose reward, and what is said where that is not clear."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from palign.cli.command import load_recipe
from palign.models.classifier.export import stock_rewards
from palign.models.pal import PALRewardModel

SAVED = Path(__file__).parents[1] / "saved"
PAIRS = [("tea milk", "rain"), ("sun", "cat dog red")]


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        (["--annotator", "p2"], None),
        (["--prototype", "1"], [0.0, 1.0]),
        (["--weights", ".25,.75"], [0.25, 0.75]),
        (["--population", "true"], "mean"),
    ],
)
def test_every_way_to_say_whose_reward(flags: list[str], weights: object, tmp_path: Path, capsys) -> None:
    load_recipe("export").main(["--model_path", str(SAVED / "pal_text"), *flags, "--output_dir", str(tmp_path / "r")])
    said = capsys.readouterr().out
    assert "Weights over prototypes: " in said and "of the reward model's" in said
    model = PALRewardModel.from_pretrained(SAVED / "pal_text")
    texts = [p for p, _ in PAIRS], [c for _, c in PAIRS]
    if weights is None:
        wanted = model.score(*texts, "p2")
    else:
        wanted = model.score(*texts, weights=model.people.mean if weights == "mean" else torch.tensor(weights))
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "r")
    found = stock_rewards(classifier, AutoTokenizer.from_pretrained(tmp_path / "r"), PAIRS)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Nothing to export, or two things"),
        (["--model_path", "x"], "Whose reward? Nothing was given"),
        (["--model_path", "x", "--prototype", "0", "--population", "true"], "--prototype and --population was given"),
        (["--mixture_path", "x"], "--vllm true alone"),
        (["--model_path", "x", "--annotator", "a", "--vllm", "true"], "--vllm true exports the adapters of a mixture"),
        (["--model_path", str(SAVED / "pal_text"), "--prototype", "2"], "prototypes 0 to 1"),
        (["--model_path", str(SAVED / "pal_text"), "--weights", "1"], "give 2 numbers"),
        (["--model_path", str(SAVED / "pal_text"), "--annotator", "zz"], "'zz' not among the 4 known here"),
        (["--model_path", str(SAVED / "pal_vectors"), "--prototype", "0"], "takes ready vectors"),
    ],
)
def test_what_is_not_clear_is_said(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, KeyError)) as error:
        load_recipe("export").main([*flags, "--output_dir", str(tmp_path / "r")])
    assert message in str(error.value)
    assert not (tmp_path / "r").exists() or not list((tmp_path / "r").iterdir())
