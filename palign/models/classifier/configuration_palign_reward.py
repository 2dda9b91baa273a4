"""What a person's reward as a stock sequence classifier is made of, as its `config.json` holds it.

This file and `modeling_palign_reward.py` are written into every exported folder, as one file that needs transformers
alone (from 4.51 on). They import nothing of palign.
"""

from typing import Any

from transformers.configuration_utils import PretrainedConfig


class PalignRewardConfig(PretrainedConfig):
    """Configuration of `PalignRewardForSequenceClassification`.

    Args:
        backbone_config: of the transformer below.
        head: `fixed`, `linear` or `prompt`.
        similarity: `squared_distance`, `distance`, `cosine` or `inner_product`.
        preference_dim, inner_size, n_layers: of the head's networks.
        n_prototypes: functions of the prompt that the `prompt` head mixes.
        has_deviation: whether the person has a deviation from their mixture.
        reward_scale: what rewards are multiplied by.
        scaling: whether states are brought to one scale (`common`) or each to one length (`unit`).
        pooling: `completion`, `completion_last`, `last`, `mean`, `first` or `max`.
        layer: whose states are pooled, from 1; the last if None.
        normalize: whether pooled states have length one.
        longest_input: tokens that are read; of more, the end of the prompt and the completion stay.
        sees_only_the_past: whether the backbone is causal.
        prefix_ids, suffix_ids: stand before and behind every text, once.
        empty_prompt_ids: read in place of an empty prompt.
        special_ids: ids that are no text.
        mark_id: the token that this folder's chat template writes between question and answer; it is not read.
        written_ids: what the reward model's own template writes there, for texts without the mark.
        read_ids: what is read in their place.
    """

    model_type = "palign_reward"
    sub_configs = {"backbone_config": PretrainedConfig}

    def __init__(
        self,
        backbone_config: Any = None,
        head: str = "fixed",
        similarity: str = "squared_distance",
        preference_dim: int = 32,
        inner_size: int = 64,
        n_layers: int = 2,
        n_prototypes: int = 1,
        has_deviation: bool = False,
        reward_scale: float = 1.0,
        scaling: str = "common",
        pooling: str = "mean",
        layer: int | None = None,
        normalize: bool = False,
        longest_input: int = 1024,
        sees_only_the_past: bool = False,
        prefix_ids: Any = (),
        suffix_ids: Any = (),
        empty_prompt_ids: Any = (),
        special_ids: Any = (),
        mark_id: int = -1,
        written_ids: Any = (),
        read_ids: Any = (),
        **options: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            from transformers import AutoConfig  # loads the Auto classes, which may be what asks for this class

            entries = dict(backbone_config)
            backbone_config = AutoConfig.for_model(entries.pop("model_type"), **entries)
        self.backbone_config = backbone_config
        self.head, self.similarity, self.reward_scale = head, similarity, reward_scale
        self.scaling, self.layer = scaling, layer
        self.preference_dim, self.inner_size, self.n_layers = preference_dim, inner_size, n_layers
        self.n_prototypes, self.has_deviation = n_prototypes, has_deviation
        self.pooling, self.normalize, self.longest_input = pooling, normalize, longest_input
        self.sees_only_the_past, self.mark_id = sees_only_the_past, mark_id
        self.prefix_ids, self.suffix_ids = list(prefix_ids), list(suffix_ids)
        self.empty_prompt_ids, self.special_ids = list(empty_prompt_ids), list(special_ids)
        self.written_ids, self.read_ids = list(written_ids), list(read_ids)
        options = {"num_labels": 1, "problem_type": "regression"} | options
        super().__init__(**options)

    @property
    def hidden_size(self) -> int:
        """Width of the pooled states."""
        text = self.backbone_config.get_text_config()
        return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)
