"""MixturePolicy against plain transformers and PEFT, Bayes by hand, and what it refuses."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.adapters import add_type_adapters, save_type_adapters
from palign.models.files.mixture import MixtureRecord, save_mixture
from palign.models.mixture_policy import Answer, MixturePolicy
from tests.worlds.colour import COLD, WARM, colour_lm, colour_tokenizer
from tests.worlds.lora import lora

BETA = 0.5
GAMMA = np.array([[0.9, 0.1], [0.25, 0.75], [0.05, 0.95]])
ETA = np.array([0.4, 0.6])
PEOPLE = ["7", "a.b/c", "ü <script>"]
PROMPT = "what colour is the boat?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two types that never were trained: adapters of random numbers, large enough to tell apart."""
    path = tmp_path_factory.mktemp("mixture")
    base, tokenizer = colour_lm(), colour_tokenizer()
    base.get_input_embeddings().weight.data *= 5  # an untrained model has an opinion on nothing
    base.save_pretrained(path / "base_model")
    tokenizer.save_pretrained(path / "base_model")
    model = add_type_adapters(base, lora(), 2, seed=0)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_type_adapters(model, path)
    record = MixtureRecord(AnnotatorIndex(PEOPLE), GAMMA, np.array([3, 4, 5]), ETA, BETA, 64, None)
    save_mixture(record, path)
    return path


@pytest.fixture(scope="module")
def policy(folder: Path) -> MixturePolicy:
    return MixturePolicy.from_pretrained(folder)


def plain_logp(model: Any, prompt: str, completion: str) -> float:
    """Sum of the log-softmax over the completion and its eos, one text at a time."""
    tokenizer = colour_tokenizer()
    head = tokenizer(prompt)["input_ids"]
    ids = tokenizer(prompt + completion)["input_ids"] + [tokenizer.eos_token_id]
    assert ids[: len(head)] == head
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logps[t - 1, ids[t]]) for t in range(len(head), len(ids)))


def plain_rewards(folder: Path, texts: list[tuple[str, str]]) -> list[list[float]]:
    """β·h_k of each text, every adapter loaded alone by PEFT itself."""
    base = folder / "base_model"
    reference = [plain_logp(AutoModelForCausalLM.from_pretrained(base).eval(), *text) for text in texts]
    columns = []
    for k in range(2):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / f"type_{k}").eval()
        columns.append([BETA * (plain_logp(model, *t) - ref) for t, ref in zip(texts, reference, strict=True)])
    return [list(pair) for pair in zip(*columns, strict=True)]


def rows() -> list[dict[str, Any]]:
    """A pair, a ranking of three, ratings with a tie, best of four: by two strangers and someone known."""
    said = [f" the boat is {colour}" for colour in WARM + COLD]
    return [
        {"annotator_id": "new", "prompt": PROMPT, "chosen": said[0], "rejected": said[4]},
        {"annotator_id": 7, "prompt": PROMPT, "completions": [said[5], said[1], said[2]]},
        {"annotator_id": "other", "prompt": PROMPT, "completions": said[:4], "ratings": [1, 3, 3, 2]},
        {"annotator_id": "new", "prompt": PROMPT, "completions": said[4:], "n_ranked": 1},
        {"annotator_id": "new", "prompt": PROMPT, "chosen": said[7], "rejected": said[2]},
    ]


STAGES = [  # winner and whom it beat, by hand from `rows`: numbers of colours
    [(0, [4])],
    [(5, [1, 2]), (1, [2])],
    [(1, [3, 0]), (2, [3, 0]), (3, [0])],
    [(4, [5, 6, 7])],
    [(7, [2])],
]


def stage_log_likelihood(reward: list[float], stages: list[tuple[int, list[int]]]) -> float:
    return sum(reward[w] - math.log(sum(math.exp(reward[i]) for i in [w, *lost])) for w, lost in stages)


@pytest.fixture(scope="module")
def by_hand(folder: Path) -> list[list[float]]:
    """[colour][type]: β·h_k."""
    return plain_rewards(folder, [(PROMPT, f" the boat is {colour}") for colour in WARM + COLD])


def test_rewards_are_those_of_plain_peft(policy: MixturePolicy, by_hand: list[list[float]]) -> None:
    found = policy.type_rewards(rows(), batch_size=3).numpy()
    order = [[0, 4], [5, 1, 2], [1, 2, 3, 0], [4, 5, 6, 7], [7, 2]]  # best first, as rows stand
    assert found.shape == (5, 4, 2) and found.dtype == np.float64
    for row, colours in enumerate(order):
        np.testing.assert_allclose(found[row, : len(colours)], [by_hand[c] for c in colours], atol=2e-5)
        assert not found[row, len(colours) :].any()
    assert np.abs(np.array(by_hand)).max() > 0.5  # there is something to compare


def test_posterior_is_bayes(policy: MixturePolicy, by_hand: list[list[float]]) -> None:
    logs = {name: [math.log(weight) for weight in ETA] for name in ("new", "7", "other")}
    for name, stages in zip(["new", "7", "other", "new", "new"], STAGES, strict=True):
        for k in range(2):
            logs[name][k] += stage_log_likelihood([reward[k] for reward in by_hand], stages)
    found = policy.posterior(rows())
    assert found.annotators.ids == ["new", "7", "other"] and found.n_rows.tolist() == [3, 1, 1]
    for person, (first, second) in enumerate(logs.values()):
        share = 1 / (1 + math.exp(second - first))
        assert found.responsibilities[person].tolist() == pytest.approx([share, 1 - share], abs=1e-5)
    likeliest = [int(second > first) for first, second in logs.values()]
    assert found.types == dict(zip(logs, likeliest, strict=True))


def test_posterior_does_not_depend_on_order_or_batches(policy: MixturePolicy) -> None:
    whole = policy.posterior(rows())
    shuffled = policy.posterior([rows()[i] for i in (3, 2, 4, 1, 0)], batch_size=3)
    place = shuffled.annotators.indices(whole.annotators.ids)
    torch.testing.assert_close(shuffled.responsibilities[place], whole.responsibilities, atol=1e-6, rtol=0)


def test_votes_that_a_type_predicts_raise_its_share(policy: MixturePolicy, by_hand: list[list[float]]) -> None:
    gaps = np.array(by_hand)[:, None] - np.array(by_hand)[None]  # winner, loser, type
    for k in range(2):
        winner, loser = np.unravel_index((gaps[..., k] - gaps[..., 1 - k]).argmax(), gaps.shape[:2])
        said = [f" the boat is {(WARM + COLD)[number]}" for number in (winner, loser)]
        vote = {"annotator_id": "x", "prompt": PROMPT, "chosen": said[0], "rejected": said[1]}
        shares = [policy.posterior([vote] * n).responsibilities[0, k].item() for n in (1, 11)]
        assert ETA[k] < shares[0] < shares[1]


def test_scores_are_what_the_person_is_expected_to_give(policy: MixturePolicy, by_hand: list[list[float]]) -> None:
    found = policy.scores(rows())
    known = 0.9 * by_hand[5][0] + 0.1 * by_hand[5][1]  # annotator 7
    stranger = 0.4 * by_hand[0][0] + 0.6 * by_hand[0][1]
    assert found.shape == (5, 4)
    assert found[1, 0].item() == pytest.approx(known, abs=2e-5)
    assert found[0, 0].item() == pytest.approx(stranger, abs=2e-5)


def test_ids_are_who_they_mean(policy: MixturePolicy) -> None:
    found = policy.responsibilities_for([7, "7", 7.0, np.int64(7), "ü <script>", "007"])
    np.testing.assert_array_equal(found, [GAMMA[0]] * 4 + [GAMMA[2], ETA])


def test_rows_selected_from_others_are_scored_alike(policy: MixturePolicy) -> None:
    prefs = Preferences.from_rows(rows())
    part = policy.type_rewards(prefs.select([3, 1]))
    torch.testing.assert_close(part, policy.type_rewards(prefs)[[3, 1]], atol=1e-5, rtol=0)  # another batch


# speaking

PROMPTS = [f"what colour is the {thing}?" for thing in ("house", "boat", "hat", "wall")] + ["red red red"]


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[list[str]]:
    """[type][prompt]: the likeliest continuation, by PEFT alone and without padding."""
    tokenizer, found = colour_tokenizer(), []
    for k in range(2):
        base = AutoModelForCausalLM.from_pretrained(folder / "base_model")
        model = PeftModel.from_pretrained(base, folder / f"type_{k}").eval()
        found.append([])
        for prompt in PROMPTS:
            ids = tokenizer([prompt], return_tensors="pt")["input_ids"]
            said = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
            )
            found[-1].append(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip())
    assert found[0] != found[1]
    return found


@pytest.mark.parametrize("batch_size", [2, 32])
def test_each_prompt_is_answered_by_whom_it_should(
    policy: MixturePolicy, answers: list[list[str]], batch_size: int
) -> None:
    greedy = {"max_new_tokens": 5, "temperature": 0, "batch_size": batch_size}
    for k in range(2):
        assert policy.generate(PROMPTS, type=k, **greedy) == answers[k]
    who = [7, "a.b/c", "7", "ü <script>", "a.b/c"]
    types = [0, 1, 0, 1, 1]
    mixed = [answers[k][i] for i, k in enumerate(types)]
    assert policy.generate(PROMPTS, annotator_ids=who, **greedy) == mixed
    assert policy.generate(PROMPTS, weights=np.eye(2)[types], **greedy) == mixed
    assert policy.generate(PROMPTS, weights=[0, 3], **greedy) == answers[1]


def test_a_seed_decides_and_the_callers_dice_are_left_alone(policy: MixturePolicy) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, again, other = (
        policy.generate(PROMPTS, weights=[0.5, 0.5], max_new_tokens=6, temperature=2.0, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_types_are_drawn_in_proportion(policy: MixturePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    def who_speaks(self: MixturePolicy, ids: list[list[int]], *_: Any) -> list[Answer]:
        layer = next(m for m in self.policies.policy.modules() if hasattr(m, "lora_A"))
        return [Answer(layer.active_adapters[0], False)] * len(ids)

    monkeypatch.setattr(MixturePolicy, "_sample", who_speaks)
    n = 4000
    by_weights = policy.generate(["x"] * n, weights=[1, 3])
    assert by_weights.count("type_1") / n == pytest.approx(0.75, abs=0.03)
    strangers = policy.generate(["x"] * n, annotator_ids=[f"s{i}" for i in range(n)])
    assert strangers.count("type_1") / n == pytest.approx(0.6, abs=0.03)


def test_no_prompts_are_no_answers(policy: MixturePolicy) -> None:
    assert policy.generate([], type=0) == []


def test_an_empty_prompt_begins_at_bos(policy: MixturePolicy, folder: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "base_model")
    model = PeftModel.from_pretrained(base, folder / "type_1").eval()
    tokenizer = colour_tokenizer()
    said = model.generate(input_ids=torch.tensor([[tokenizer.bos_token_id]]), max_new_tokens=5, do_sample=False)
    expected = tokenizer.decode(said[0, 1:], skip_special_tokens=True).strip()
    assert policy.generate([""], type=1, max_new_tokens=5, temperature=0) == [expected]


CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}assistant: {% endif %}"


def test_messages_are_prompts_too(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "m")
    tokenizer = MixturePolicy.from_pretrained(tmp_path / "m").tokenizer
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "m")
    loaded = MixturePolicy.from_pretrained(tmp_path / "m")
    prompt = [{"role": "user", "content": "hat?"}]
    text = f"user: hat?{tokenizer.eos_token}assistant: "
    base = AutoModelForCausalLM.from_pretrained(folder / "base_model")
    model = PeftModel.from_pretrained(base, folder / "type_0").eval()
    ids = tokenizer([text], return_tensors="pt", add_special_tokens=False)["input_ids"]
    said = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    expected = tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert loaded.generate([prompt], type=0, max_new_tokens=4, temperature=0) == [expected]


def test_without_a_pad_token(folder: Path, tmp_path: Path, answers: list[list[str]]) -> None:
    shutil.copytree(folder, tmp_path / "m")
    loaded = MixturePolicy.from_pretrained(tmp_path / "m")
    rewards = loaded.type_rewards(rows())
    loaded.tokenizer.pad_token = None
    assert loaded.tokenizer.pad_token_id is None
    torch.testing.assert_close(loaded.type_rewards(rows()), rewards, atol=1e-6, rtol=0)
    assert loaded.generate(PROMPTS, type=1, max_new_tokens=5, temperature=0) == answers[1]


def test_half_precision_is_finite_and_near(policy: MixturePolicy, folder: Path) -> None:
    half = MixturePolicy.from_pretrained(folder, dtype="bfloat16")
    assert next(half.policies.policy.get_base_model().parameters()).dtype == torch.bfloat16
    found, full = half.type_rewards(rows()), policy.type_rewards(rows())
    torch.testing.assert_close(found, full, atol=0.3, rtol=0.1)
    assert len(half.generate(PROMPTS[:2], type=0, max_new_tokens=3)) == 2


def test_the_folder_may_move(folder: Path, tmp_path: Path, policy: MixturePolicy) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    moved = MixturePolicy.from_pretrained(tmp_path / "elsewhere")
    torch.testing.assert_close(moved.scores(rows()), policy.scores(rows()), atol=0, rtol=0)


# what is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "none of annotator_ids, type and weights"),
        ({"type": 0, "weights": [1, 0]}, ValueError, "type and weights of annotator_ids"),
        ({"type": 2}, ValueError, "type is 2; this mixture has types 0 to 1"),
        ({"type": -1}, ValueError, "type is -1"),
        ({"annotator_ids": ["7"]}, ValueError, "5 prompts came with 1 annotator ids"),
        ({"annotator_ids": [None] * 5}, TypeError, "annotator id must be a text or a number"),
        ({"weights": [1, 2, 3]}, ValueError, r"shape \(3,\); \(2,\) or \(5, 2\)"),
        ({"weights": [0, 0]}, ValueError, "not all 0"),
        ({"weights": [-1, 2]}, ValueError, "0 or more"),
        ({"weights": [float("nan"), 1]}, ValueError, "finite"),
    ],
)
def test_who_answers_must_be_said_once(
    policy: MixturePolicy, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        policy.generate(PROMPTS, **options)


@pytest.mark.parametrize("prompts", ["what colour?", [{"role": "user", "content": "hat?"}]])
def test_one_prompt_alone_is_not_read_letter_by_letter(policy: MixturePolicy, prompts: Any) -> None:
    with pytest.raises(TypeError, match="list of prompts"):
        policy.generate(prompts, type=0)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixture.json, responsibilities.parquet"):
        MixturePolicy.from_pretrained(tmp_path)
    shutil.copytree(folder, tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "type_1")
    with pytest.raises(ValueError, match="no complete adapter type_1"):
        MixturePolicy.from_pretrained(tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "base_model")
    with pytest.raises(ValueError, match="base_model.*no such folder"):
        MixturePolicy.from_pretrained(tmp_path / "m")


def test_rows_of_vectors_are_refused(policy: MixturePolicy) -> None:
    vectors = Preferences.from_arrays(["a"], np.array([0]), np.array([1]))
    with pytest.raises(ValueError, match="rows of texts"):
        policy.posterior(vectors)
