"""What palign makes, as folders that other programs load.

    palign export --model_path out/pal --annotator w17 --output_dir r17  # or --prototype, --population, --weights
    palign export --mixture_path out/em_dpo --fair_path out/fair --vllm true --output_dir served

The first is a sequence classifier with one label: `AutoModelForSequenceClassification`, `pipeline`, TRL's
`reward_funcs="r17"` and the `rewardbench` command load it. The second holds adapters, routes.json and the line that
starts vLLM on them.
"""

import sys

import torch

from palign.cli.errors import run
from palign.models.classifier.export import export_classifier
from palign.models.pal import PALRewardModel
from palign.pipelines.arguments.export import ExportArguments, parse_export_arguments
from palign.pipelines.export import weights_asked_for
from palign.serving.vllm import export_for_vllm


def main(argv: list[str] | None = None) -> None:
    """Read the flags and write one folder."""
    (script,) = parse_export_arguments(argv)
    if script.mixture_path is not None:
        written = export_for_vllm(script.mixture_path, script.output_dir, fair_path=script.fair_path)
        print("\n".join([*written.notes, f"{script.output_dir} is written. Start it by:", "", written.launch]))
        return
    export_reward(script)


def export_reward(script: ExportArguments) -> None:
    """One reward as a classifier, and what was found of it."""
    model = PALRewardModel.from_pretrained(script.model_path)
    weights, deviation = weights_asked_for(model, script)
    dtype = getattr(torch, script.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"--dtype is {script.dtype!r}; give float32, bfloat16 or float16.")
    if model.backbone is not None:
        model.backbone.model.to(dtype)
    done = export_classifier(model, script.output_dir, weights=weights, deviation=deviation)
    shown = ", ".join(f"{number:.3f}" for number in weights.tolist())
    print(
        f"Weights over prototypes: {shown}.\n"
        f"Questions and answers are read {'as turns' if done.reads_turns else 'bare'}: write them through the chat "
        "template of this folder.\n"
        f"Rewards of short texts are within {done.largest_difference:.1e} of the reward model's.\n"
        f"{script.output_dir} is written."
    )


if __name__ == "__main__":
    sys.exit(run("export.py", main))
