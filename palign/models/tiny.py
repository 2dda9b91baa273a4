"""The embedded default: a small tokenizer and a small causal language model, made and trained in the process.

Both are ordinary transformers objects (`PreTrainedTokenizerFast`, `LlamaForCausalLM`), so everything that takes a real
model takes these. Nothing is downloaded.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def make_tiny_tokenizer(texts: Iterable[str], *, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, padding on the left, with distinct pad, bos and eos tokens.

    Every string can be written and read back (bytes are in the vocabulary); frequent words become one token.

    Args:
        texts: strings to learn merges from.
        vocab_size: upper limit, at least 300; the vocabulary is smaller where `texts` runs out of merges.

    Raises:
        ValueError: `vocab_size` below 300 (256 bytes and the special tokens must fit).
    """
    if vocab_size < 300:
        raise ValueError(
            f"vocab_size={vocab_size} is too small for the 256 bytes and 3 special tokens; give 300 or more."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_tiny_lm(
    tokenizer: PreTrainedTokenizerBase,
    *,
    hidden_size: int = 96,
    n_layers: int = 3,
    n_heads: int = 4,
    max_length: int = 512,
    seed: int = 0,
) -> LlamaForCausalLM:
    """An untrained Llama shape for `tokenizer`: about 0.4M parameters at the defaults, tied embeddings, float32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float()


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and completion ids + eos, tokenised apart (as a policy meets them), without other special tokens."""
    heads = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    tails = tokenizer(list(completions), add_special_tokens=False)["input_ids"]
    return [(head, [*tail, tokenizer.eos_token_id]) for head, tail in zip(heads, tails, strict=True)]


def _collate(pairs: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(head) + len(tail) for head, tail in pairs)
    ids = torch.full((len(pairs), longest), pad)
    labels = torch.full((len(pairs), longest), -100)
    for row, (head, tail) in enumerate(pairs):
        end = len(head) + len(tail)
        ids[row, :end] = torch.tensor(head + tail)
        labels[row, len(head) : end] = torch.tensor(tail)
    return {"input_ids": ids, "attention_mask": (ids != pad).long(), "labels": labels}


def _warm_up_and_cosine(step: int, n_steps: int) -> float:
    """Factor of the learning rate: up over the first tenth of the steps, then down to zero."""
    n_warm_up = max(1, n_steps // 10)
    if step < n_warm_up:
        return (step + 1) / n_warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - n_warm_up) / max(1, n_steps - n_warm_up)))


def train_tiny_lm(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    n_steps: int = 350,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    seed: int = 0,
    show_progress: bool = True,
) -> float:
    """Train `model` in place on the completions given their prompts, with AdamW, a warm-up and a cosine.

    Args:
        model: a causal language model on the CPU or an accelerator.
        tokenizer: of `model`.
        prompts: list of `n_rows` strings.
        completions: list of `n_rows` strings.
        n_steps, batch_size, learning_rate: of the optimisation.
        seed: of the order of the rows.
        show_progress: whether to draw a progress bar.

    Returns:
        Mean loss of the last 20 steps, nats per completion token.

    Raises:
        RuntimeError: the loss is not finite.
    """
    pairs = encode_pairs(tokenizer, prompts, completions)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_up_and_cosine(step, n_steps))
    losses: list[float] = []
    model.train()
    bar = tqdm(range(n_steps), desc="tiny language model", disable=not show_progress)
    for step in bar:
        rows = torch.randint(len(pairs), (batch_size,), generator=generator).tolist()
        batch = _collate([pairs[row] for row in rows], tokenizer.pad_token_id)
        loss = model(**{name: value.to(model.device) for name, value in batch.items()}).loss
        if not torch.isfinite(loss):
            raise RuntimeError(
                f"the language model's loss is {loss.item()} at step {step}: lower learning_rate={learning_rate}."
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 10 == 9:
            bar.set_postfix(loss=f"{sum(losses[-10:]) / 10:.3f}")
    model.eval()
    return sum(losses[-20:]) / len(losses[-20:])
