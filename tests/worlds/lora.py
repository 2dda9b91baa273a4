"""The LoRA that tests train: small, on every linear layer."""

from typing import Any

from peft import LoraConfig


def lora(r: int = 2, **changes: Any) -> LoraConfig:
    """Rank `r`, scaled by 2, on every linear layer of a causal language model; `changes` by their names in PEFT."""
    return LoraConfig(
        **({"r": r, "lora_alpha": 2 * r, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes)
    )
