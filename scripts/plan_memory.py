"""What each process of a run will hold at its peak, stage by stage, before anything is loaded.

    python scripts/plan_memory.py MODEL_FOLDER --recipe em_dpo --launcher zero3 --num_processes 8 --dtype bfloat16 \
        --bf16 --gradient_checkpointing --per_device_train_batch_size 4
    python scripts/plan_memory.py MODEL_FOLDER --recipe ppo_pal --launcher single --memory_gib 80

Read are `config.json` and the headers (or the index) of the safetensors. Options have the names of the recipes' own;
`docs/scaling.md` holds the figures against what was measured.
"""

import argparse
import sys
from dataclasses import MISSING, fields

from palign.pipelines.memory.plan import plan_memory
from palign.pipelines.memory.room import room_sentence
from palign.pipelines.memory.run import PlannedRun
from palign.pipelines.memory.shape import GIB, read_shape


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, PlannedRun]:
    """The folder, the limit, and what is to be planned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_folder", help="with config.json, and model.safetensors or its index")
    parser.add_argument("--memory_gib", type=float, help="memory of a card: exit status 1 where the plan exceeds it")
    for option in fields(PlannedRun):
        default = option.default_factory() if option.default is MISSING else option.default
        shape = {"default": default, "help": option.metadata["help"]}
        if isinstance(default, bool):
            shape["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, list):
            shape["nargs"] = "+"
        else:
            shape["type"] = type(default)
        parser.add_argument(f"--{option.name}", **shape)
    options = parser.parse_args(argv)
    return options, PlannedRun(**{option.name: getattr(options, option.name) for option in fields(PlannedRun)})


def main(argv: list[str] | None = None) -> int:
    """Print the plan; 0 where it fits, or no limit is given."""
    try:
        options, run = parse(argv)
        shape = read_shape(options.model_folder)
    except ValueError as error:
        print(f"plan_memory.py: error: {error}", file=sys.stderr)
        return 2
    plan = plan_memory(run, shape)
    print(
        f"{shape.model_type}, {shape.n_parameters / 1e9:.2f}B parameters ({shape.source}), {shape.n_layers} layers; "
        f"{run.recipe}, {run.launcher}, {run.num_processes} process(es)\n\n{plan.table()}\n\n"
        f"Peak of each process: {plan.peak / GIB:.1f} GiB, in the stage {plan.peak_stage!r}."
    )
    if not shape.is_counted_exactly:
        print(
            f"Activations are those of a Llama of these sizes; {shape.model_type!r} was not held against measurement."
        )
    sentence = None if options.memory_gib is None else room_sentence(plan, options.memory_gib * GIB)
    if sentence is not None:
        print(sentence)
    return 0 if sentence is None else 1


if __name__ == "__main__":
    sys.exit(main())
