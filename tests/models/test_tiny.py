"""The embedded default: any text survives the tokenizer, the model learns, and both are ordinary objects on disk."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from palign.models.tiny import encode_pairs, make_tiny_lm, make_tiny_tokenizer, train_tiny_lm


@pytest.mark.parametrize("text", ["the garden is open.", "Ünïcödé 漢字 🙂 <script>", "line\nbreak\t tab", "a"])
def test_any_text_can_be_written_and_read(text: str) -> None:
    tokenizer = make_tiny_tokenizer(["the garden is open."] * 5)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text.strip()


def test_tokenizer_suits_ppo() -> None:
    tokenizer = make_tiny_tokenizer(["the garden is open."] * 5)
    assert len({tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}) == 3
    assert tokenizer.padding_side == "left"
    batch = tokenizer(["the garden is open.", "the"], padding=True)["input_ids"]
    assert batch[1][0] == tokenizer.pad_token_id and batch[1][-1] != tokenizer.pad_token_id
    assert len(tokenizer("the garden", add_special_tokens=False)["input_ids"]) == 2  # frequent words are one token


def test_prompt_and_completion_are_tokenised_apart() -> None:
    tokenizer = make_tiny_tokenizer(["how is it? it is open."] * 5)
    ((head, tail),) = encode_pairs(tokenizer, ["how is it?"], ["it is open."])
    assert tokenizer.decode(head).strip() == "how is it?"
    assert tail[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tail[:-1]).strip() == "it is open."


def test_default_size_is_as_documented() -> None:
    tokenizer = make_tiny_tokenizer(["the garden is open."] * 5)
    n_parameters = sum(p.numel() for p in make_tiny_lm(tokenizer).parameters())
    assert 300_000 < n_parameters < 500_000


def test_model_learns_what_follows_from_the_prompt(tmp_path) -> None:
    """The completion is decided by the prompt: the loss falls from about ln(vocabulary) to near zero."""
    prompts, completions = ["one", "two"] * 8, ["red green.", "blue."] * 8
    tokenizer = make_tiny_tokenizer(prompts + completions, vocab_size=300)
    model = make_tiny_lm(tokenizer, hidden_size=32, n_layers=1, n_heads=2)
    state = torch.get_rng_state()
    loss = train_tiny_lm(
        model, tokenizer, prompts, completions, n_steps=80, batch_size=16, learning_rate=2e-2, show_progress=False
    )
    assert torch.equal(torch.get_rng_state(), state)  # global randomness is left alone
    assert loss < 0.1 < math.log(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, read = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    encoded = read(["one", "two"], return_tensors="pt", padding=True, add_special_tokens=False)
    answers = loaded.generate(**encoded, max_new_tokens=8, do_sample=False)
    texts = read.batch_decode(answers[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [text.strip() for text in texts] == ["red green.", "blue."]
    assert read.padding_side == "left"
    assert (tmp_path / "model.safetensors").exists()


def test_seeds_decide() -> None:
    tokenizer = make_tiny_tokenizer(["a b"])
    first, same, other = (make_tiny_lm(tokenizer, hidden_size=16, n_layers=1, n_heads=2, seed=s) for s in (0, 0, 1))
    weight = "model.embed_tokens.weight"
    assert torch.equal(first.state_dict()[weight], same.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="too small"):
        make_tiny_tokenizer(["a"], vocab_size=100)
    tokenizer = make_tiny_tokenizer(["a b"])
    model = make_tiny_lm(tokenizer, hidden_size=16, n_layers=1, n_heads=2)
    assert math.isfinite(train_tiny_lm(model, tokenizer, ["a"], ["b"], n_steps=1, show_progress=False))
    model.model.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="at step 0"):
        train_tiny_lm(model, tokenizer, ["a"], ["b"], n_steps=20, show_progress=False)
