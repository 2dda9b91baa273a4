"""Processor seconds of PPO's training on the embedded default, with gold utility by type and KL of what it learned.

    OMP_NUM_THREADS=1 python scripts/bench_ppo.py --seed 42 [any option of recipes/ppo_pal.py]

One line: policy, gold by type, KL, processor seconds of `train` alone, of an optimizer step, and the peak of memory.
It runs with palign's build on TRL 1.12 as well (`PYTHONPATH` of that checkout), which is what it is compared with.
"""

import collections
import importlib.metadata
import resource
import sys
import tempfile
import time

from transformers import set_seed

from palign.evaluation.judging.samples import sample_rows
from palign.pipelines.policies import set_up_policies
from palign.pipelines.ppo import PPORuns, parse_policy_arguments


def main() -> None:
    """Train the prompt policy, sample it, print."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--output_dir", folder, "--use_cpu", "true", "--disable_tqdm", "true", *sys.argv[1:]]
        script, args, model_args = parse_policy_arguments(flags)
        set_seed(args.seed)
        further = {"n_value_layers": script.value_model_layers} if hasattr(script, "value_model_layers") else {}
        runs = set_up_policies(script, args, model_args, PPORuns, **further)
        began, began_wall = time.process_time(), time.monotonic()
        run = runs.train("prompt")
        seconds, wall = time.process_time() - began, time.monotonic() - began_wall
        samples = sample_rows(**runs.sampling(run))
    gold = collections.defaultdict(list)
    for row, text in zip(runs.eval_rows, samples.completions, strict=True):
        gold[row["type"]].append(runs.judge(text, row["annotator_id"]))
    means = {name: round(sum(values) / len(values), 2) for name, values in sorted(gold.items())}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    trl = importlib.metadata.version("trl")
    print(
        f"trl {trl} seed {args.seed} gold {means} KL {float(samples.kl.mean()):.2f} processor {seconds:.1f} s, wall "
        f"{wall:.1f} s, peak {peak:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
