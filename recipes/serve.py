"""Rewards or policies behind HTTP, on this machine alone unless it is told otherwise.

    palign serve --model_path out/pal                                  # POST /score, /get_reward, /annotators
    palign serve --mixture_path out/em_dpo --fair_path out/fair        # POST /v1/chat/completions, as OpenAI's client

Both have GET /health and /metrics. Needs the extra `serve`. Ids and texts are in no log.
"""

import sys
from typing import Any

import torch

from palign.cli.errors import run
from palign.pipelines.arguments.serving import ServingArguments, parse_serving_arguments
from palign.serving.gate import Limits
from palign.serving.start import require_server, run_server, token_of_environment


def main(argv: list[str] | None = None) -> None:
    """Read the flags, load the model, serve."""
    (script,) = parse_serving_arguments(argv)
    require_server()
    token = token_of_environment(script.host)
    app = (rewards if script.model_path is not None else policies)(script, token)
    print(f"palign serves at http://{script.host}:{script.port}{' with a token' if token else ''}", flush=True)
    run_server(app, host=script.host, port=script.port)


def limits_of(script: ServingArguments) -> Limits:
    """What one request may ask."""
    return Limits(int(script.max_body_mb * 1e6), script.max_rows, script.max_characters, script.read_seconds)


def device_of(script: ServingArguments) -> torch.device:
    """Where the model is put."""
    if script.device != "auto":
        return torch.device(script.device)
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def rewards(script: ServingArguments, token: str | None) -> Any:
    """The application of a reward model."""
    from palign.models.pal import PALRewardModel
    from palign.serving.reward_app import reward_app

    options = {} if script.dtype == "auto" else {"dtype": script.dtype}
    model = PALRewardModel.from_pretrained(script.model_path, **options).to(device_of(script))
    return reward_app(model, limits=limits_of(script), batch_size=script.batch_size, token=token)


def policies(script: ServingArguments, token: str | None) -> Any:
    """The application of a mixture."""
    from palign.serving.policy_app import policy_app
    from palign.serving.policy_engine import PolicyEngine

    engine = PolicyEngine.from_pretrained(
        script.mixture_path, fair_path=script.fair_path, device=device_of(script), dtype=script.dtype,
        batch_size=script.batch_size,
    )  # fmt: skip
    return policy_app(engine, limits=limits_of(script), max_new_tokens=script.max_new_tokens, token=token)


if __name__ == "__main__":
    sys.exit(run("serve.py", main))
