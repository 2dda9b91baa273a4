"""Plain rows of an instruct model are read through its template, alike in every socket, unless told to stay plain."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palign.conditioning import WhoIsAsking
from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.data.rendering import Written, render_prompt
from palign.data.turns import as_turn, in_turns, question_of, reads_plain, turns_sentence
from palign.evaluation.judging.kinds import recognise
from palign.evaluation.judging.scores import score_source
from palign.models.completions import TokenizedItems, prompt_ids
from palign.models.files.mixture import MixtureRecord
from palign.models.mixture_policy import MixturePolicy
from palign.models.pal import PALRewardModel
from palign.models.pal_config import PALConfig
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from palign.pipelines.grpo import GRPORuns
from palign.rewards import PersonalizedReward
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from palign.trainers.reward.collator import RewardCollator
from tests.worlds.colour import colour_lm, colour_tokenizer, planted_rows
from tests.worlds.group_policy import grpo_config
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import tiny_policy

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PLAIN = [
    {"annotator_id": person, "prompt": f"ask {n}", "chosen": f"answer {n}", "rejected": f"think {n} {n}"}
    for person in "ab"
    for n in range(4)
]


def as_messages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows as a user would write them as conversations."""
    return [
        {"annotator_id": row["annotator_id"], "prompt": [{"role": "user", "content": row["prompt"]}]}
        | {name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
        for row in rows
    ]


def test_a_prompt_is_shown_as_it_was_typed() -> None:
    system = {"role": "system", "content": "Answer in one sentence."}
    ask, said = {"role": "user", "content": "Guns?"}, {"role": "assistant", "content": "No."}
    assert question_of("Guns? <|x|>") == "Guns? <|x|>"
    assert question_of([ask]) == question_of([system, ask]) == "Guns?"
    assert question_of([system, ask, said, ask]) == "user: Guns?\nassistant: No.\nuser: Guns?"
    assert question_of([]) == ""


def tokenizer(template: str | None = CHAT):
    made = make_tiny_tokenizer(["ask answer think user assistant system 0 1 2 3 4 reader type"])
    made.chat_template = template
    return made


def reward_model(variant: str = "fixed", **options: Any) -> PALRewardModel:
    made = tokenizer()
    torch.manual_seed(0)
    return PALRewardModel.from_backbone(
        make_tiny_lm(made, hidden_size=32, n_layers=1).model, tokenizer=made, n_prototypes=2, variant=variant,
        annotators=AnnotatorIndex(["a", "b"]), **options,
    )  # fmt: skip


def test_what_decides() -> None:
    assert reads_plain(tokenizer(None), False) and reads_plain(None, False)
    assert not reads_plain(tokenizer(), False) and reads_plain(tokenizer(), True)
    refuses = "{{ raise_exception('no') }}"
    assert reads_plain(tokenizer(refuses), False)  # a template that takes no question and answer


def test_what_becomes_a_turn() -> None:
    made = tokenizer()
    assert as_turn("ask") == [{"role": "user", "content": "ask"}]
    written = render_prompt(as_turn("ask"), made)
    assert isinstance(written, Written) and as_turn(written) is written == "<user>ask</s><assistant>"
    assert as_turn("") == ""
    rows = [*PLAIN, {"annotator_id": "a", "chosen": "alone", "rejected": "lone"}, *as_messages(PLAIN)]
    found = in_turns(Preferences.from_rows(rows)).to_rows()
    assert found[:8] == as_messages(PLAIN) and found[9:] == as_messages(PLAIN)
    assert (found[8]["prompt"], found[8]["chosen"]) == ("", "alone")  # nobody asked


def test_the_summary_says_so() -> None:
    made = tokenizer()
    assert "read as a user's turn" in turns_sentence(["ask"], made, False)
    assert "read bare" in turns_sentence(["ask"], made, True)
    assert turns_sentence([as_turn("ask")], made, False) is None
    assert turns_sentence(["ask"], tokenizer(None), False) is None


def test_prompts_that_a_template_has_written_are_not_written_twice() -> None:
    made = tokenizer()
    written = str(render_prompt(as_turn("ask"), made))
    with pytest.raises(ValueError, match="holds '<user>', which the tokenizer's chat template.*--plain_prompts"):
        turns_sentence(["ask", written], made, False)
    assert "read bare" in turns_sentence(["ask", written], made, True)


@pytest.mark.parametrize("plain", [False, True])
def test_a_mixture_keeps_how_it_read_plain_rows(plain: bool, tmp_path: Path) -> None:
    """Rows score as the same rows written as messages do, where they are turns; a reload scores as the trainer did."""
    made = deepcopy(colour_tokenizer())
    made.chat_template = CHAT
    args = MixtureDPOConfig(
        output_dir=str(tmp_path), n_types=2, max_steps=2, learning_rate=1e-2, use_cpu=True, report_to=[],
        disable_tqdm=True, plain_prompts=plain, n_rounds=1,
    )  # fmt: skip
    trainer = MixtureDPOTrainer(colour_lm(), args, planted_rows(), processing_class=made, peft_config=lora(4))
    trainer.train()
    trainer.save_model()
    messages = Preferences.from_rows(as_messages(planted_rows()))
    found = trainer.mixture_policy().scores(planted_rows())
    assert found.abs().max() > 0
    as_conversations = trainer.mixture_policy().scores(messages)
    assert torch.allclose(found, as_conversations, atol=1e-6) is not plain
    again = MixturePolicy.from_pretrained(tmp_path)
    assert again.record.plain_prompts is plain and torch.allclose(again.scores(planted_rows()), found, atol=1e-5)
    (said,) = again.generate(["what colour is the hat?"], type=0, max_new_tokens=3, temperature=0)
    (asked,) = again.generate([as_turn("what colour is the hat?")], type=0, max_new_tokens=3, temperature=0)
    assert plain or said == asked
    assert recognise(str(tmp_path / "type_0")).plain_prompts is plain  # one adapter, beside the mixture's own file


def test_a_mixture_of_before_reads_bare() -> None:
    record = MixtureRecord(AnnotatorIndex(["a"]), np.ones((1, 1)), np.ones(1), np.ones(1), 0.1, 64, None)
    assert record.plain_prompts


def test_policies_read_what_a_user_would_have_written() -> None:
    made = tokenizer()
    plain, messages = Preferences.from_rows(PLAIN), Preferences.from_rows(as_messages(PLAIN))
    found, expected = TokenizedItems.of(plain, made, plain_prompts=False), TokenizedItems.of(messages, made)
    assert found.ids.tolist() == expected.ids.tolist() and found.ends.tolist() == expected.ends.tolist()
    assert found.ids.tolist() != TokenizedItems.of(plain, made).ids.tolist()
    assert prompt_ids(["ask 1"], made, plain_prompts=False) == prompt_ids([as_turn("ask 1")], made)


@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_a_reward_model_reads_plain_rows_as_conversations_in_every_socket(variant: str, tmp_path: Path) -> None:
    model = reward_model(variant)
    assert not model.plain_prompts
    asked, said = [row["prompt"] for row in PLAIN], [row["chosen"] for row in PLAIN]
    turns = as_messages(PLAIN)
    people = [row["annotator_id"] for row in PLAIN]
    expected = model.score([row["prompt"] for row in turns], [row["chosen"] for row in turns], people)
    assert model.score(asked, said, people).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    bare = reward_model(variant, plain_prompts=True).score(asked, said, people)
    assert (bare - expected).abs().max() > 1e-4
    model.save_pretrained(tmp_path)
    again = PALRewardModel.from_pretrained(tmp_path)
    assert again.score(asked, said, people).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    source = recognise(str(tmp_path))
    judged = score_source(source, Preferences.from_rows(PLAIN)).scores
    assert judged[:, 0] == pytest.approx(expected.numpy(), abs=1e-5)
    reward = PersonalizedReward(again, standardize=False)
    written = [render_prompt(as_turn(prompt), again.tokenizer) for prompt in asked]
    own = [row["prompt"] for row in turns], [row["chosen"] for row in turns]
    for prompts, completions in ((asked, said), (written, said), own):
        assert reward.score(prompts, completions, people).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_training_batches_are_those_of_conversations() -> None:
    model = reward_model("prompt")
    batches = []
    for rows, plain in ((PLAIN, False), (as_messages(PLAIN), True), (PLAIN, True)):
        prefs = Preferences.from_rows(rows)
        collate = RewardCollator(model.backbone, prefs, model.annotators, True, plain_prompts=plain)
        batches.append(collate([0, 1, 5]))
    turned, messages, bare = batches
    assert all(torch.equal(turned[name], messages[name]) for name in messages)
    assert turned["input_ids"].shape != bare["input_ids"].shape


@pytest.mark.parametrize("plain", [False, True])
def test_policies_are_judged_on_prompts_as_they_are_trained(plain: bool, tmp_path: Path) -> None:
    model, made = tiny_policy()
    made.chat_template = CHAT
    who = WhoIsAsking({"a": 1}, 2)
    runs = GRPORuns(
        model=model, tokenizer=made, reward=None, who=who, train_rows=[],
        eval_rows=[{"prompt": "ask 1", "annotator_id": "a"}], args=grpo_config(tmp_path, plain_prompts=plain),
    )  # fmt: skip
    told = {False: "<system>The reader is type 1.</s><user>ask 1</s><assistant>", True: "[reader: type 1] ask 1"}
    bare = {False: "<user>ask 1</s><assistant>", True: "ask 1"}
    for conditioning, texts in (("prompt", told), ("none", bare), (None, bare)):
        (ids,) = runs.eval_prompts(conditioning)
        assert made.decode(ids).replace("<bos>", "").strip() == made.decode(made(texts[plain])["input_ids"]).strip()


def test_models_of_before_read_plain_rows_bare(tmp_path: Path) -> None:
    model = reward_model(plain_prompts=True)
    model.save_pretrained(tmp_path)
    words = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del words["plain_prompts"]
    (tmp_path / "config.json").write_text(json.dumps(words), encoding="utf-8")
    (tmp_path / "contents.json").unlink()  # models of before have no hashes
    asked, said = [row["prompt"] for row in PLAIN], [row["chosen"] for row in PLAIN]
    old = PALRewardModel.from_pretrained(tmp_path)
    assert old.plain_prompts and PALConfig(hidden_size=1).plain_prompts
    expected = model.score(asked, said, "a")
    assert old.score(asked, said, "a").tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_policy_reads_turns_and_its_old_reward_model_bare_text(tmp_path: Path) -> None:
    """Each as it learned to: the policy meets messages, the reward the text as it stands."""
    from palign.trainers.pal_grpo_trainer import PALGRPOTrainer

    seen: list[tuple[str, str]] = []

    class Old:
        def score(self, prompts: Any, completions: Any, annotator_ids: Any = None) -> torch.Tensor:
            seen.extend(zip(prompts, completions, strict=True))
            return torch.tensor([float(len(text)) for text in completions])

    class New(Old):
        plain_prompts = False

    model, made = tiny_policy()
    made.chat_template = CHAT
    rows = [{"prompt": f"person {i} asks", "annotator_id": str(i)} for i in range(40)]
    who = WhoIsAsking.from_weights([str(i) for i in range(40)], np.eye(2)[np.arange(40) % 2])
    for scorer, opening in ((Old(), "person "), (New(), "<user>person ")):
        seen.clear()
        scorer.tokenizer = made
        args = grpo_config(tmp_path / opening[1:5], policy_conditioning="prompt", max_steps=1, max_completion_length=8)
        trainer = PALGRPOTrainer(model, PersonalizedReward(scorer), args, made, rows, who=who, peft_config=lora(4))
        assert trainer.train_rows.dataset[1]["prompt"] == [
            {"role": "system", "content": "The reader is type 1."}, {"role": "user", "content": "person 1 asks"},
        ]  # fmt: skip
        trainer.train()
        model = model.unload() if hasattr(model, "unload") else tiny_policy()[0]
        trainer.save_model()
        words = json.loads((tmp_path / opening[1:5] / "conditioning.json").read_text(encoding="utf-8"))
        assert words["plain_prompts"] is False
        assert seen and all(p.startswith(opening) and "<user><user>" not in p for p, _ in seen)
