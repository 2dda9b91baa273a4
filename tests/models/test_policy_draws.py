"""Draws of policies: values against exhaustive enumeration, log-probabilities, the cache, and what is refused."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from palign.models.adapters import add_type_adapters, route
from palign.models.completions import policy_logps
from palign.models.mixture_policy import MixturePolicy
from palign.models.policy_draws import DrawSettings, PolicyReader, joined_items, stop_ids
from palign.writing import SavingError
from tests.worlds.planted import PROMPTS, random_mixture

EOS, N_TOKENS, LENGTH = 0, 5, 3


class NumberTokenizer:
    """Prompts are digits; token 0 ends."""

    eos_token_id, pad_token_id, bos_token_id, eos_token = EOS, EOS, None, "0"

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(c) for c in text] for text in texts]}


@pytest.fixture(scope="module")
def tiny() -> PolicyReader:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=N_TOKENS, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16, eos_token_id=EOS, pad_token_id=EOS, bos_token_id=None,
    ))  # fmt: skip
    model.lm_head.weight.data = torch.randn(N_TOKENS, 8)
    policy = add_type_adapters(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj", "lm_head"]), 2, seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.5 * torch.randn(parameter.shape)
    return PolicyReader(policy.eval(), NumberTokenizer(), ["type_0", "type_1"])


def every_completion() -> list[list[int]]:
    """All that a policy can say in at most three tokens: up to the first end."""
    said = {(*head, EOS) for n in range(LENGTH) for head in itertools.product(range(1, N_TOKENS), repeat=n)}
    return [list(s) for s in sorted(said | set(itertools.product(range(1, N_TOKENS), repeat=LENGTH)))]


def exact(reader: PolicyReader, speaker: str | None, prompt: list[int]) -> tuple[np.ndarray, float]:
    """E h_i (n_types,) and KL to the reference by going through every completion."""
    logps = {}
    for name in ("type_0", "type_1", None):
        with route(reader.model, name), torch.no_grad():
            logps[name] = np.array([
                float(policy_logps(reader.model, ids := torch.tensor([prompt + said]), torch.ones_like(ids),
                                   torch.tensor([[0] * len(prompt) + [1] * len(said)])))
                for said in every_completion()
            ])  # fmt: skip
    p = np.exp(logps[speaker])
    assert p.sum() == pytest.approx(1, abs=1e-5)  # nothing is missing
    gains = np.array([p @ (logps[name] - logps[None]) for name in ("type_0", "type_1")])
    return gains, float(p @ (logps[speaker] - logps[None]))


@pytest.mark.parametrize("estimator", ["prefix", "sampled"])
@pytest.mark.parametrize("speaker", ["type_0", None])
def test_values_are_those_of_exhaustive_enumeration(tiny: PolicyReader, estimator: str, speaker: str | None) -> None:
    prompts, settings = ["12", "341"], DrawSettings(1000, LENGTH, seed=3, estimator=estimator, batch_size=2000)
    draws = tiny.draws(speaker, prompts, settings)
    noise = draws.log_ratios.std(1) / np.sqrt(settings.n_samples)
    for number, prompt in enumerate(([1, 2], [3, 4, 1])):
        values, kl = exact(tiny, speaker, prompt)
        assert (np.abs(draws.values[number] - values) < 4 * noise[number]).all()
        assert draws.kl[number] == pytest.approx(kl, abs=4 * noise[number].max())
    assert draws.log_ratios.std() > 0.3  # the adapters do differ


def test_full_vocabulary_expectation_has_less_noise(tiny: PolicyReader) -> None:
    settings = {"n_samples": 1, "max_new_tokens": LENGTH, "batch_size": 500}
    spread = {
        estimator: tiny.draws("type_0", ["12"] * 500, DrawSettings(estimator=estimator, **settings)).values.std(0)
        for estimator in ("prefix", "sampled")
    }
    assert (spread["prefix"] < 0.8 * spread["sampled"]).all()


def test_log_probabilities_are_those_of_one_forward(tmp_path: Path) -> None:
    policy = random_mixture(tmp_path)
    draws = reader_of(policy).draws("type_1", PROMPTS[:3], DrawSettings(2, 6))
    for number in range(6):
        batch = draws.items.collate([number])
        for k, name in enumerate(("type_0", "type_1", None)):
            with route(policy.policies.policy, name), torch.no_grad():
                alone = float(policy_logps(policy.policies.policy, **batch))
            found = draws.reference_logps if name is None else draws.type_logps[..., k]
            assert found.reshape(-1)[number] == pytest.approx(alone, abs=1e-4)
    assert np.array_equal(draws.own_logps, draws.type_logps[..., 1])


def reader_of(policy: MixturePolicy, cache: Path | None = None) -> PolicyReader:
    return PolicyReader(policy.policies.policy, policy.tokenizer, policy.policies.names, cache)


def test_draws_come_from_the_cache_until_an_adapter_or_a_setting_changes(tmp_path: Path) -> None:
    policy, cache = random_mixture(tmp_path / "mixture"), tmp_path / "cache"
    first = reader_of(policy, cache).draws("type_0", PROMPTS[:8], DrawSettings(2, 4))
    again = reader_of(policy, cache).draws("type_0", PROMPTS[:8], DrawSettings(2, 4))
    assert len(list(cache.iterdir())) == 1
    assert np.array_equal(first.type_logps, again.type_logps)
    assert first.texts(policy.tokenizer) == again.texts(policy.tokenizer)
    reader_of(policy, cache).draws("type_0", PROMPTS[:8], DrawSettings(2, 4, seed=1))
    reader_of(policy, cache).draws("type_1", PROMPTS[:8], DrawSettings(2, 4))
    with torch.no_grad():
        next(p for n, p in policy.policies.policy.named_parameters() if "lora_B.type_1" in n).add_(0.1)
    reader_of(policy, cache).draws("type_0", PROMPTS[:8], DrawSettings(2, 4))  # another judge
    assert len(list(cache.iterdir())) == 4


def test_answers_that_do_not_fit_on_the_disk_leave_nothing(tmp_path: Path, small_disk: Path) -> None:
    reader, cache = reader_of(random_mixture(tmp_path / "mixture"), small_disk / "samples"), small_disk / "samples"
    reader.draws("type_0", PROMPTS[:8], DrawSettings(2, 4))
    kept = list(cache.iterdir())
    with open(small_disk / "fill", "wb", buffering=0) as file:
        file.write(b"0" * (2**20 - 16384))
    with pytest.raises(
        SavingError, match="^The answers of a policy could not be written to .* disk is full"
    ) as caught:
        reader.draws("type_1", PROMPTS[:8], DrawSettings(8, 4))
    assert f"'{cache}'" in str(caught.value) and "is not drawn again. Make room" in str(caught.value)
    assert list(cache.iterdir()) == kept


def test_policies_draw_on_seeds_of_their_own_and_leave_the_global_one(tmp_path: Path) -> None:
    policy = random_mixture(tmp_path, spread=0.0)  # all say the same things
    before = torch.get_rng_state()
    texts = [
        reader_of(policy).draws(n, PROMPTS[:4], DrawSettings(2, 4)).texts(policy.tokenizer) for n in ("type_0", None)
    ]
    assert texts[0] != texts[1]
    assert torch.equal(before, torch.get_rng_state())


def test_joined_items_are_one_after_the_other(tmp_path: Path) -> None:
    reader = reader_of(random_mixture(tmp_path))
    parts = [reader.draws(name, PROMPTS[:2], DrawSettings(2, 4)).items for name in ("type_0", "type_1")]
    whole = joined_items(parts)
    assert [whole.tokens(i).tolist() for i in range(8)] == [p.tokens(i).tolist() for p in parts for i in range(4)]


def test_a_prompt_without_room_is_named(tmp_path: Path) -> None:
    reader = reader_of(random_mixture(tmp_path))
    with pytest.raises(ValueError, match=r"Prompt 1 .* no room for max_new_tokens=40"):
        reader.draws(None, [PROMPTS[0], "door " * 30], DrawSettings(1, 40))


def test_a_diverged_adapter_is_named(tmp_path: Path) -> None:
    policy = random_mixture(tmp_path)
    for name, parameter in policy.policies.policy.named_parameters():
        if "lora_B.type_1" in name:
            parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="Prompt 0, sample 0 of reference: its log-probability under type 1 is not"):
        reader_of(policy).draws(None, PROMPTS[:8], DrawSettings(1, 4))


def test_empty_answers_are_refused(tmp_path: Path) -> None:
    policy = random_mixture(tmp_path)
    model, end = policy.policies.policy, policy.tokenizer.eos_token_id
    hook = model.get_base_model().lm_head.register_forward_hook(
        lambda module, args, output: output + 50.0 * (torch.arange(output.shape[-1]) == end)
    )
    with pytest.raises(ValueError, match="type_0 answers nothing: 100% of its completions are empty"):
        reader_of(policy).draws("type_0", PROMPTS[:8], DrawSettings(1, 4))
    hook.remove()


def test_a_tokenizer_that_cannot_end_is_refused(tiny: PolicyReader) -> None:
    class Endless(NumberTokenizer):
        eos_token_id = None

    class Model:
        generation_config = None

    with pytest.raises(ValueError, match="no eos token"):
        stop_ids(Endless(), Model())
