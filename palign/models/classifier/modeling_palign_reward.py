"""A person's reward as a stock sequence classifier: one label, its logit the reward.

A stock classifier is given token ids and nothing else. So this one finds by itself where the answer begins (the ids
that the chat template writes there), puts the special tokens right that callers add twice or not at all, and cuts a
long text as the reward model does: its rewards are then those of `PALRewardModel.score`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from palign.models.classifier.configuration_palign_reward import PalignRewardConfig


class RewardHead(nn.Module):
    """Pooled states (..., hidden) → rewards (..., 1) of one person, whose ideal point is folded in."""

    def __init__(self, config: PalignRewardConfig) -> None:
        super().__init__()
        self.head, self.similarity, self.scaling = config.head, config.similarity, config.scaling
        self.reward_scale, self.has_deviation = config.reward_scale, config.has_deviation
        hidden, width = config.hidden_size, config.preference_dim
        self.register_buffer("center", torch.zeros(hidden))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("log_scale", torch.zeros(()))
        if config.has_deviation:
            self.register_buffer("deviation_center", torch.zeros(hidden))
            self.register_buffer("deviation", torch.zeros(hidden))
        if config.head == "linear":
            self.register_buffer("ideal_point", torch.zeros(hidden))
            return
        shape = (hidden, config.inner_size, width, config.n_layers)
        self.f = _network(*shape)
        if config.head == "prompt":
            self.register_buffer("prompt_center", torch.zeros(hidden))
            self.register_buffer("prompt_scale", torch.ones(()))
            self.register_buffer("weights", torch.ones(config.n_prototypes) / config.n_prototypes)
            self.g = nn.ModuleList(_network(*shape) for _ in range(config.n_prototypes))
        else:
            self.register_buffer("ideal_point", torch.zeros(width))

    def forward(self, states: Tensor, prompt_states: Tensor | None = None) -> Tensor:
        states = states.to(self.center.dtype)
        if self.head == "linear":
            points, ideal = (states - self.center) * self.scale, self.ideal_point
        else:
            points = self._through(self.f, states, self.center, self.scale)
            ideal = self._of_prompt(prompt_states) if self.head == "prompt" else self.ideal_point
        rewards = self.reward_scale * self._similar(points, ideal)
        if self.has_deviation:
            rewards = rewards + (states - self.deviation_center) @ self.deviation
        return rewards[..., None]

    def _of_prompt(self, prompt_states: Tensor | None) -> Tensor:
        if prompt_states is None:
            raise ValueError("This reward reads prompts: call the whole model, which finds their states.")
        states = prompt_states.to(self.center.dtype)
        ideal = [self._through(g, states, self.prompt_center, self.prompt_scale) for g in self.g]
        return (self.weights[:, None] * torch.stack(ideal, dim=-2)).sum(-2)

    def _through(self, layers: nn.ModuleList, states: Tensor, center: Tensor, scale: Tensor) -> Tensor:
        """Layers, GELU between them, on (states − centre) · scale; over the length of states − centre if `unit`."""
        first = layers[0]
        if self.scaling == "unit":
            states = first(F.normalize(states - center, dim=-1) * scale)
        else:  # folded into the first map, as in training
            weight = first.weight * scale
            states = F.linear(states, weight, first.bias - weight @ center)
        for layer in layers[1:]:
            states = layer(F.gelu(states))
        return states

    def _similar(self, points: Tensor, ideal: Tensor) -> Tensor:
        if self.similarity == "inner_product":
            return (points * ideal).sum(-1)
        if self.similarity == "cosine":
            return self.log_scale.exp().clamp(max=100.0) * F.cosine_similarity(points, ideal.expand_as(points), dim=-1)
        squared = (points - ideal).square().sum(-1)
        return -squared if self.similarity == "squared_distance" else -(squared + 1e-12).sqrt()


def _network(hidden_size: int, inner_size: int, preference_dim: int, n_layers: int) -> nn.ModuleList:
    widths = [hidden_size, *[inner_size] * (n_layers - 1), preference_dim]
    return nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:], strict=False))


class PalignRewardForSequenceClassification(PreTrainedModel):
    """Backbone, pooling and the head of one person; `logits` (batch, 1) are rewards.

    `score` is the head: pooled states (..., hidden) → (..., 1).
    """

    config_class = PalignRewardConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn_2 = _supports_flash_attn = _supports_flex_attn = True
    _keep_in_fp32_modules = ["score"]
    _keys_to_ignore_on_load_missing = [r"^model\.pooler\."]  # not read here

    def __init__(self, config: PalignRewardConfig) -> None:
        super().__init__(config)
        from transformers import AutoModel

        model = AutoModel.from_config(config.backbone_config)
        self.model = model.get_encoder() if config.backbone_config.is_encoder_decoder else model
        self.num_labels = 1
        self.score = RewardHead(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def _init_weights(self, module: nn.Module) -> None:
        """Everything is read from the file."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Rewards of texts.

        Args:
            input_ids: (batch, seq_len), padded on any side.
            attention_mask: (batch, seq_len), 1 on real tokens; all if None.
            labels: (batch,) rewards to compare with: the loss is the mean squared error.

        Raises:
            ValueError: no ids; a row without a token; or no place where the answer begins, where that must be known.
        """
        if input_ids is None:
            raise ValueError("This classifier reads input_ids: it looks for the answer in them. Give input_ids.")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        texts = [
            self._parted([i for i, real in zip(ids, keep, strict=True) if real], row)
            for row, (ids, keep) in enumerate(zip(input_ids.tolist(), mask.tolist(), strict=True))
        ]
        logits = self.score(*self._pooled(texts, input_ids.device))
        loss = None if labels is None else F.mse_loss(logits[:, 0], labels.to(logits.dtype).view(-1))
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    # from ids to parts

    @property
    def _needs_boundary(self) -> bool:
        return self.config.pooling in ("completion", "completion_last") or self.config.head == "prompt"

    def _parted(self, ids: list[int], row: int) -> tuple[list[int], list[int]]:
        """(prompt ids, completion ids), special tokens of the tokenizer taken off."""
        config = self.config
        prefix, suffix = config.prefix_ids, config.suffix_ids
        while prefix and ids[: len(prefix)] == prefix:
            ids = ids[len(prefix) :]
        while suffix and ids[len(ids) - len(suffix) :] == suffix:
            ids = ids[: len(ids) - len(suffix)]
        if config.mark_id in ids:
            start = ids.index(config.mark_id)
            return ids[:start], ids[start + 1 :]
        patterns = [pattern for pattern in (config.written_ids, config.read_ids) if pattern]
        start, length = max(((_find(ids, pattern), len(pattern)) for pattern in patterns), default=(-1, 0))
        if start >= 0:
            return ids[:start] + config.read_ids, ids[start + length :]
        if self._needs_boundary:
            raise ValueError(
                f"Row {row} (counting from 0) does not show where the answer begins, and this reward is that of the "
                "answer. Write question and answer through this folder's chat template: "
                "tokenizer.apply_chat_template([{'role': 'user', …}, {'role': 'assistant', …}], tokenize=False)."
            )
        return [], ids

    def _joined(self, prompt: list[int], completion: list[int]) -> tuple[list[int], int, bool]:
        """Ids as the reward model reads them, how many are the prompt's, and whether the prompt was cut."""
        config = self.config
        room = config.longest_input - len(config.prefix_ids) - len(config.suffix_ids)
        if not self._needs_boundary and not prompt:  # nobody knows where the answer begins: the end of all stays
            completion = completion[max(0, len(completion) - room) :]
        else:
            prompt = prompt or config.empty_prompt_ids
            completion = completion[: room - (1 if prompt and config.sees_only_the_past else 0)]
        kept = min(len(prompt), room - len(completion))
        ids = [*config.prefix_ids, *prompt[len(prompt) - kept :], *completion, *config.suffix_ids]
        if not ids:
            raise ValueError("A text has no token at all. Give at least one character.")
        return ids, len(config.prefix_ids) + kept, kept < len(prompt)

    # from parts to states

    def _pooled(self, texts: list[tuple[list[int], list[int]]], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Pooled states (batch, hidden) of texts and, where the head reads them, of their prompts."""
        joined = [self._joined(*text) for text in texts]
        ids, mask, lengths = self._padded([(ids, n) for ids, n, _ in joined], device)
        states = self._states(ids, mask)
        pooled = self._pool(states, ids, mask, lengths)
        if self.config.head != "prompt":
            return pooled, None
        if self.config.sees_only_the_past and not any(was_cut for *_, was_cut in joined):
            if self.config.pooling in ("last", "completion", "completion_last"):
                return pooled, self._scaled(states[torch.arange(len(states), device=device), (lengths - 1).clamp(0)])
            positions = torch.arange(mask.shape[1], device=device)
            return pooled, self._pool(states, ids, (positions < lengths[:, None]).to(mask.dtype), lengths)
        alone = [self._joined(prompt, []) for prompt, _ in texts]
        ids, mask, lengths = self._padded([(ids, n) for ids, n, _ in alone], device)
        return pooled, self._pool(self._states(ids, mask), ids, mask, lengths)

    def _padded(self, rows: list[tuple[list[int], int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        pad = self.config.pad_token_id or 0
        longest = max(len(ids) for ids, _ in rows)
        padded = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows], device=device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows], device=device)
        return padded, mask, torch.tensor([length for _, length in rows], device=device)

    def _states(self, ids: Tensor, mask: Tensor) -> Tensor:
        options, layer = {"use_cache": False} if self.config.sees_only_the_past else {}, self.config.layer
        if layer is not None:
            options["output_hidden_states"] = True
        output = self.model(input_ids=ids, attention_mask=mask, return_dict=True, **options)
        states = output.last_hidden_state if layer is None else output.hidden_states[layer]
        return states.float() if states.dtype in (torch.float16, torch.bfloat16) else states

    def _pool(self, states: Tensor, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        pooling = self.config.pooling
        if pooling in ("completion", "completion_last"):
            mask = self._answer(ids, mask, lengths)
        if pooling in ("last", "completion_last"):
            positions = torch.arange(mask.shape[1], device=mask.device)
            return self._scaled(states[torch.arange(len(states), device=states.device), (mask * positions).argmax(1)])
        if pooling == "first":
            return self._scaled(states[:, 0])
        real = mask[..., None].to(torch.bool)
        if pooling == "max":
            return self._scaled(states.masked_fill(~real, float("-inf")).amax(1))
        return self._scaled(states.masked_fill(~real, 0.0).sum(1) / mask.sum(1, keepdim=True))

    def _answer(self, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """The answer's own tokens: from its first word to the mark that ends it; its last token where it has none."""
        positions = torch.arange(mask.shape[1], device=mask.device)
        rest = (positions >= lengths[:, None]) & mask.bool()
        is_mark = torch.isin(ids, torch.tensor(self.config.special_ids, dtype=ids.dtype, device=ids.device))
        text = rest & ~is_mark
        has_ended = (rest & is_mark & (text.cumsum(1) > 0)).cumsum(1) > 0
        tokens = text & ~has_ended
        is_last = positions == mask.sum(1, keepdim=True) - 1
        return (tokens | (~tokens.any(1, keepdim=True) & is_last)).to(mask.dtype)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1) if self.config.normalize else vectors


def _find(ids: list[int], pattern: list[int]) -> int:
    """Where the last `pattern` begins in ids; −1 where it is not."""
    starts = reversed(range(len(ids) - len(pattern) + 1))
    return next((start for start in starts if ids[start : start + len(pattern)] == pattern), -1)
