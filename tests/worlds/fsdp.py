"""What `accelerate launch --config_file accelerate_configs/fsdp2.yaml` says to the processes that it starts."""

from pathlib import Path

import yaml

CONFIG = Path(__file__).parents[2] / "accelerate_configs" / "fsdp2.yaml"


def fsdp2_environment() -> dict[str, str]:
    """Environment variables, by name."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["fsdp_config"]
    words = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}
    return {"ACCELERATE_USE_FSDP": "true"} | {name.upper(): value for name, value in words.items()}
