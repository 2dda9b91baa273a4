"""A person's reward as a stock classifier: the same rewards, by everybody's way of asking."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import palign  # noqa: F401  (registers the class with the Auto classes)
from palign.data.annotators import AnnotatorIndex
from palign.models.classifier.export import export_classifier, stock_rewards
from palign.models.pal import PALRewardModel
from palign.models.tiny import make_tiny_lm
from tests.test_templates import BOS, DEFAULT, HYBRID, MARKS, OPEN, THINKS, tokenizer
from tests.worlds.reward_models import SMALL, make_people, spread_out, text_model, text_rows, vector_model

PAIRS = [(row["prompt"], row["chosen"]) for row in text_rows(12)]
TALK = [("ask 0", "answer 1"), ("kind 2 3 4 ask", "You are kind."), ("Qwen", "think")]


def wanted(model: PALRewardModel, pairs: list, person: str = "p1") -> torch.Tensor:
    return model.score([p for p, _ in pairs], [c for _, c in pairs], person)


def exported(model: PALRewardModel, folder: Path, person: str = "p1"):
    deviation = model.deviations_for([person])
    export_classifier(
        model, folder, weights=model.weights_for([person])[0], deviation=None if deviation is None else deviation[0]
    )
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1), AutoTokenizer.from_pretrained(
        folder
    )


def chat_model(template: str = MARKS + OPEN, **options: object) -> PALRewardModel:
    """On a causal backbone that was taught to chat."""
    torch.manual_seed(0)
    made = tokenizer(template)
    backbone = make_tiny_lm(made, hidden_size=16, n_layers=2).model
    for parameter in backbone.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model = PALRewardModel.from_backbone(
        backbone, tokenizer=made, annotators=make_people(3), n_prototypes=2, **SMALL, **options
    )
    return spread_out(model).eval()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"pooling": "last"}),
        ("llama", {"pooling": "completion_last", "scaling": "unit"}),
        ("llama", {"layer": 1, "scaling": "unit", "variant": "prompt"}),
        ("llama", {"pooling": "mean", "variant": "prompt"}),
        ("llama", {"variant": "prompt"}),
        ("llama", {"variant": "linear"}),
        ("llama", {"variant": "metric"}),
        ("llama", {"mixing": "input", "similarity": "distance"}),
        ("bert", {}),
        ("bert", {"variant": "prompt", "pooling": "first"}),
        ("bert", {"similarity": "cosine", "pooling": "max"}),
    ],
)
def test_rewards_are_those_of_the_model(kind: str, options: dict, tmp_path: Path) -> None:
    model = text_model(kind, **options)
    if options.get("variant") == "linear":  # starts at zero
        torch.nn.init.normal_(model.head.prototypes.weight)
    classifier, tokens = exported(model, tmp_path)
    rewards = wanted(model, PAIRS)
    assert rewards.std() > 1e-3
    for special in (False, True):
        found = stock_rewards(classifier, tokens, PAIRS, special=special)
        torch.testing.assert_close(found, rewards, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("template", [MARKS + OPEN, BOS, THINKS, HYBRID, DEFAULT])
@pytest.mark.parametrize("pooling", ["completion", "completion_last", "last"])
def test_answers_are_found_in_every_kind_of_template(template: str, pooling: str, tmp_path: Path) -> None:
    model = chat_model(template, pooling=pooling)
    assert not model.plain_prompts
    classifier, tokens = exported(model, tmp_path)
    torch.testing.assert_close(stock_rewards(classifier, tokens, TALK), wanted(model, TALK), atol=1e-5, rtol=1e-5)
    # of several turns the last is the answer, as for the model
    first = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "answer 0"}]
    turns = [*first, {"role": "user", "content": "kind 1"}, {"role": "assistant", "content": "think 2"}]
    ids = tokens(tokens.apply_chat_template(turns, tokenize=False), return_tensors="pt", add_special_tokens=False)
    reward = model.score([turns[:-1]], [turns[-1:]], "p1")
    torch.testing.assert_close(classifier(**ids).logits[0].detach(), reward, atol=1e-5, rtol=1e-5)


def test_long_texts_are_cut_as_the_model_cuts_them(tmp_path: Path) -> None:
    model = text_model("llama", max_length=8)
    classifier, tokens = exported(model, tmp_path)
    pairs = [("tea " * 20 + "milk", "rain sun"), ("cat", "dog " * 20), ("red " * 9, "blue " * 9)]
    torch.testing.assert_close(stock_rewards(classifier, tokens, pairs), wanted(model, pairs), atol=1e-5, rtol=1e-5)


def test_padding_on_the_left_and_batches_change_nothing(tmp_path: Path) -> None:
    model = text_model("llama")
    classifier, tokens = exported(model, tmp_path)
    tokens.padding_side = "left"
    torch.testing.assert_close(stock_rewards(classifier, tokens, PAIRS), wanted(model, PAIRS), atol=1e-5, rtol=1e-5)


def test_a_person_with_a_deviation_and_a_temperature(tmp_path: Path) -> None:
    model = text_model("llama", personal_dim=2)
    model.set_temperature(1.7)
    torch.nn.init.normal_(model.deviations.own.weight)
    model.deviations.basis.normal_(generator=torch.Generator().manual_seed(0))
    classifier, tokens = exported(model, tmp_path)
    found = stock_rewards(classifier, tokens, PAIRS)
    torch.testing.assert_close(found, wanted(model, PAIRS), atol=1e-4, rtol=1e-5)
    assert (found - wanted(model, PAIRS, "p2")).abs().max() > 0.1


def test_lora_weights_are_put_into_the_backbone(tmp_path: Path) -> None:
    model = text_model("llama")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    without = wanted(model, PAIRS)
    model.backbone.model = get_peft_model(model.backbone.model, config).eval()
    classifier, tokens = exported(model, tmp_path)
    torch.testing.assert_close(stock_rewards(classifier, tokens, PAIRS), wanted(model, PAIRS), atol=1e-5, rtol=1e-5)
    assert (wanted(model, PAIRS) - without).abs().max() > 1e-3
    assert hasattr(model.backbone.model, "peft_config")  # the model itself is left as it was


def test_the_pipeline_gives_rewards_and_no_probabilities(tmp_path: Path) -> None:
    model = text_model("llama")
    _, tokens = exported(model, tmp_path)
    ask = [{"role": "user", "content": "tea"}, {"role": "assistant", "content": "milk"}]
    classify = pipeline("text-classification", model=str(tmp_path), tokenizer=str(tmp_path), device="cpu")
    (found,) = classify(tokens.apply_chat_template(ask, tokenize=False))
    assert found["label"] == "reward"
    assert found["score"] == pytest.approx(model.score(["tea"], ["milk"], "p1").item(), abs=1e-5)


def test_it_loads_without_palign_by_its_own_file(tmp_path: Path) -> None:
    model = text_model("llama")
    exported(model, tmp_path)
    assert "palign." not in (tmp_path / "modeling_palign_reward.py").read_text().replace("nothing of palign.", "")
    code = f"""
import sys
sys.modules["palign"] = None
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained({str(tmp_path)!r}, trust_remote_code=True, num_labels=1)
tokenizer = AutoTokenizer.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)
ask = [{{"role": "user", "content": "tea"}}, {{"role": "assistant", "content": "milk"}}]
text = tokenizer.apply_chat_template(ask, tokenize=False)
print(type(model).__module__.startswith("transformers_modules"), model(**tokenizer(text, return_tensors="pt")).logits.item())
"""  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    is_remote, reward = done.stdout.split()[-2:]
    assert is_remote == "True"
    assert float(reward) == pytest.approx(model.score(["tea"], ["milk"], "p1").item(), abs=1e-5)


@pytest.mark.parametrize(
    "lines",
    [
        ["import palign", "import palign.models.classifier.export"],
        *(
            pytest.param(lines, marks=pytest.mark.slow)
            for lines in (
                ["import palign", "import transformers"],
                ["import transformers", "import palign"],
                ["from transformers import AutoModelForSequenceClassification", "import palign"],
                ["import palign", "import transformers.modeling_utils", "import trl"],
            )
        ),
    ],
)
def test_the_class_is_known_in_whichever_order_one_imports(lines: list[str]) -> None:
    code = "\n".join(
        [*lines, "import sys", "heavy = 'palign.models.classifier.modeling_palign_reward' in sys.modules"]
    )
    code += """
from transformers import AutoConfig, AutoModelForSequenceClassification as A
from palign.models.classifier.configuration_palign_reward import PalignRewardConfig
print(AutoConfig.for_model("palign_reward").__class__ is PalignRewardConfig, PalignRewardConfig in A._model_mapping)
print([f for f in sys.meta_path if type(f).__module__ == "palign.auto_classes"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-2:] == ["True True", "[]"], done.stderr[-2000:]


def test_a_text_without_a_place_where_the_answer_begins_is_refused(tmp_path: Path) -> None:
    classifier, tokens = exported(text_model("llama"), tmp_path)
    with pytest.raises(ValueError, match=r"Row 1 \(counting from 0\) does not show where the answer begins"):
        classifier(**tokens(["tea<|palign_answer|>milk", "tea milk"], return_tensors="pt", padding=True))
    ask = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(Exception, match="one question and its answer as they stand"):
        tokens.apply_chat_template(ask, tokenize=False)


def test_pooling_that_needs_no_boundary_reads_a_text_as_it_stands(tmp_path: Path) -> None:
    model = text_model("llama", pooling="last")
    classifier, tokens = exported(model, tmp_path)
    reward = classifier(**tokens("tea milk", return_tensors="pt")).logits[0].detach()
    torch.testing.assert_close(reward, model.score(["tea "], ["milk"], "p1"), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_a_classifier_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes ready vectors and has no backbone"):
        export_classifier(vector_model(), tmp_path / "a", weights=torch.ones(3) / 3)
    with pytest.raises(ValueError, match="each row must sum to 1"):
        export_classifier(text_model(), tmp_path / "a", weights=torch.ones(3))
    bare = chat_model("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    with pytest.raises(ValueError, match="writes nothing of its own between a question and its answer"):
        export_classifier(bare, tmp_path / "a", weights=torch.ones(2) / 2)
    assert not (tmp_path / "a").exists()


def test_the_folder_names_nobody(tmp_path: Path) -> None:
    people = AnnotatorIndex(["anna.smith@example.org", "p1"])
    exported(text_model("llama", annotators=people), tmp_path, "anna.smith@example.org")
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"anna" not in held
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.num_labels == 1 and config.problem_type == "regression"
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]["AutoConfig"].startswith("modeling_palign")


def test_versions_4_of_transformers_find_what_they_look_for(tmp_path: Path) -> None:
    """They read `rope_theta` beside the others and switch a tokenizer's leading space off, unless they are told."""
    model = chat_model(MARKS + OPEN)
    model.backbone.model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    model.backbone.model.config._name_or_path = "/a/folder/of/mine"
    exported(model, tmp_path)
    backbone = json.loads((tmp_path / "config.json").read_text())["backbone_config"]
    assert backbone["rope_theta"] == 5e5 and backbone["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert "_name_or_path" not in backbone
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and settings["add_prefix_space"] is True
    assert MARKS in settings["chat_template"]
