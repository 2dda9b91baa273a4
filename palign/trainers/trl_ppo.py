"""The one place that knows which TRL still has PPO, and says what to do on one that has not."""

import importlib.metadata

from packaging.version import Version

FIRST_TRL_WITHOUT_PPO = Version("1.13")


def require_trl_ppo(installed: str | None = None) -> None:
    """Raise unless the installed TRL ships the PPO trainer.

    Args:
        installed: version of TRL; None reads that of the environment.

    Raises:
        ImportError: TRL is 1.13 or later, or not installed.
    """
    if installed is None:
        try:
            installed = importlib.metadata.version("trl")
        except importlib.metadata.PackageNotFoundError:
            raise ImportError(
                "PALPPOTrainer needs TRL's PPO trainer and TRL is not installed. Install palign with the `ppo` extra "
                "(`pip install 'palign[ppo]'`, which asks for trl>=1.12,<1.13)."
            ) from None
    if Version(Version(installed).base_version) >= FIRST_TRL_WITHOUT_PPO:
        raise ImportError(
            "PALPPOTrainer needs TRL's PPO trainer, which is in every TRL release up to 1.12.0 and gone from 1.13 on "
            f"(upstream PR #7020); trl {installed} is installed. Install the `ppo` extra (`pip install "
            "'palign[ppo]'`, which asks for trl>=1.12,<1.13), or stay on this TRL and train with the same "
            "personalized reward by GRPO or RLOO: recipes/grpo_pal.py, or palign.PALGRPOTrainer. TRL's own trainers "
            "take it as well: `reward_funcs=PersonalizedReward(model)`, with a dataset of the columns prompt and "
            "annotator_id."
        )
