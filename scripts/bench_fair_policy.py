"""What regret costs: its estimation against plain generation of the same tokens, each route against as many DPO steps.

    OMP_NUM_THREADS=1 python scripts/bench_fair_policy.py --mixture_path outputs/em_dpo
    OMP_NUM_THREADS=1 python scripts/bench_fair_policy.py --mixture_path OWN --dataset_name rows.jsonl \
        --eval_dataset_name fresh_rows.jsonl --prompts_name prompts.jsonl --n_prompts 512
    OMP_NUM_THREADS=1 python scripts/bench_fair_policy.py --mixture_path outputs/fair_policy/mixture --n_steps 80 \
        --n_prompts 64 --n_samples 8 --leave_estimation true         # the embedded default as its recipe runs it

Estimation: every type and the reference answer `n_prompts` prompts `n_samples` times, and all types judge all of it;
plain generation is the same calls without the judging. Routes: a route of `n_steps` steps, with all that it reads and
draws beside, over as many steps of DPO on the votes with a batch of as many sequences, and over one epoch of DPO on
all votes: the reference's pass over them, once, and the steps of an epoch at the price of those that were run. No
route pays for that pass. Seconds are CPU seconds of this process.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable

from transformers.hf_argparser import string_to_bool

from palign.data.arguments import DataArguments
from palign.models.policy_draws import PolicyReader, readable_prompts, stop_ids
from palign.pipelines.arguments.fair import FairPolicyArguments
from palign.pipelines.fair import set_up_fair_policy
from palign.trainers.fair.builder import RouteBuilder
from palign.trainers.fair.dro import POOLED
from palign.trainers.fair.votes import cached_reference, vote_items
from palign.trainers.fair_policy_config import FairPolicyConfig, Route

BATCH = 16  # rows


def seconds_of(work: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure, print and, with --output, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mixture_path", default="outputs/em_dpo")
    for name in ("dataset_name", "eval_dataset_name", "prompts_name"):
        parser.add_argument(f"--{name}", default=None)
    parser.add_argument("--n_prompts", type=int, default=512)
    parser.add_argument("--n_samples", type=int, default=4)
    parser.add_argument("--max_new_tokens", type=int, default=48)
    parser.add_argument("--n_steps", type=int, default=20)
    parser.add_argument("--routes", nargs="+", default=list(Route))
    parser.add_argument("--leave_estimation", type=string_to_bool, default=False, help="measure the routes alone")
    parser.add_argument("--output", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args = FairPolicyConfig(
            output_dir=folder, max_steps=given.n_steps, per_device_train_batch_size=BATCH, n_samples=given.n_samples,
            n_prompts=given.n_prompts, max_new_tokens=given.max_new_tokens, draw_batch_size=256, use_cpu=True,
            report_to="none", n_bootstrap=20, disable_tqdm=True, logging_strategy="no", n_regress_rounds=1,
        )  # fmt: skip
        script = FairPolicyArguments(mixture_path=given.mixture_path, prompts_name=given.prompts_name)
        rows = DataArguments(
            dataset_name=given.dataset_name, eval_dataset_name=given.eval_dataset_name, guard="warn"
        )  # fmt: skip
        trainer = set_up_fair_policy(script, rows, args).trainer
        n_votes = len(trainer.train_rows)
        print(f"{trainer.n_types} types, {len(trainer.train_prompts)} prompts × {given.n_samples}, {n_votes} votes")
        found = {} if given.leave_estimation else {"estimation": estimation_ratio(trainer)}
        print("".join(f"estimation {ratio:.2f} × plain generation\n" for ratio in found.values()), end="")
        trainer.estimate()
        builder = RouteBuilder(
            trainer.mixture, args, trainer.train_rows, trainer.train_prompts, trainer.weights, trainer.type_draws,
            trainer.reference_draws, trainer._draws,
        )  # fmt: skip
        items = vote_items(trainer.mixture, trainer.train_rows)
        reference = seconds_of(lambda: cached_reference(trainer.mixture, items, builder.output_dir))
        dpo = seconds_of(lambda: builder.build(POOLED))
        epoch = reference + dpo * math.ceil(n_votes / BATCH) / given.n_steps
        print(
            f"DPO: {dpo:.1f} s for {given.n_steps} steps, and {epoch:.1f} s for an epoch, of which the reference's "
            f"pass over the votes is {reference:.1f}\n"
        )
        print(f"| route | seconds | over {given.n_steps} steps of DPO | over an epoch of DPO |\n|---|---|---|---|")
        for route in given.routes:
            seconds = seconds_of(lambda route=route: builder.build(route))
            found |= {route: seconds / dpo, f"{route}/epochs": seconds / epoch}
            print(f"| `{route}` | {seconds:.1f} | {seconds / dpo:.2f} | {seconds / epoch:.2f} |", flush=True)
    if given.output:
        with open(given.output, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


def estimation_ratio(trainer: object) -> float:
    """Draws with all judges, over the same generation alone."""
    reader = PolicyReader(trainer.model, trainer.mixture.tokenizer, trainer.mixture.policies.names)
    settings, tokenizer = trainer.args.draw_settings(), trainer.mixture.tokenizer
    ids = readable_prompts(trainer.train_prompts, tokenizer, trainer.model.config, settings.max_new_tokens)
    stops, speakers = stop_ids(tokenizer, trainer.model), [*reader.judges, None]
    reader._sample(None, ids, settings, stops, "warm-up")
    plain = seconds_of(lambda: [reader._sample(name, ids, settings, stops, "plain") for name in speakers])
    whole = seconds_of(lambda: [reader.draws(name, trainer.train_prompts, settings) for name in speakers])
    return whole / plain


if __name__ == "__main__":
    main()
