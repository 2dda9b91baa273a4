"""What other doors cost beside direct calls: an exported classifier, and answers of a mixture over the loopback.

    python scripts/measure_doors.py

Models are made for the purpose, with untrained weights: what is measured is time, one thread each; medians of
`--n_rounds`, direct and by the door in turn.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from measure_serving import PEOPLE, free_port, made_rows, reward_model, start
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from palign.data.annotators import AnnotatorIndex
from palign.models.adapters import add_type_adapters, save_type_adapters
from palign.models.classifier.export import export_classifier, stock_rewards
from palign.models.files.mixture import MixtureRecord, save_mixture
from palign.models.mixture_policy import MixturePolicy
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

N_TYPES, N_ANSWERS, N_TOKENS = 3, 96, 32


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Measure, print, and return the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--n_layers", type=int, default=6)
    parser.add_argument("--n_rows", type=int, default=256)
    parser.add_argument("--n_rounds", type=int, default=3)
    script = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = classifier(Path(folder) / "r", script) | policies(Path(folder), script)
    print(json.dumps({name: float(f"{value:.3g}") for name, value in figures.items()}, indent=1))
    return figures


def in_turn(direct: Callable[[], object], door: Callable[[], object], n_rounds: int) -> tuple[float, float]:
    """Median seconds of each; the first round warms up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(n_rounds + 1):
        for call, kept in zip((direct, door), seconds, strict=True):
            begin = time.perf_counter()
            call()
            if number:
                kept.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def classifier(folder: Path, script: argparse.Namespace) -> dict[str, float]:
    """`score` beside the exported folder, both in batches of 64."""
    model, person = reward_model(script.hidden_size, script.n_layers), "annotator-7"
    export_classifier(model, folder, weights=model.weights_for([person])[0])
    stock = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = [(prompt, completion) for prompt, completion, _ in made_rows(script.n_rows)]
    texts = [prompt for prompt, _ in pairs], [completion for _, completion in pairs]

    def by_the_door() -> torch.Tensor:
        return torch.cat([stock_rewards(stock, tokenizer, pairs[i : i + 64]) for i in range(0, len(pairs), 64)])

    direct, door = in_turn(lambda: model.score(*texts, person), by_the_door, script.n_rounds)
    difference = float((model.score(*texts, person) - by_the_door()).abs().max())
    return {
        "score_rows_per_second": len(pairs) / direct, "classifier_rows_per_second": len(pairs) / door,
        "classifier_largest_difference": difference,
    }  # fmt: skip


def policies(folder: Path, script: argparse.Namespace) -> dict[str, float]:
    """`MixturePolicy.generate`, type after type, beside `palign serve` asked by one client for each answer."""
    mixture = make_mixture(folder / "mixture", script)
    prompts = [prompt for prompt, _, _ in made_rows(N_ANSWERS)]
    people = [f"annotator-{i % PEOPLE}" for i in range(N_ANSWERS)]
    policy, port = MixturePolicy.from_pretrained(mixture), free_port()
    options = {"temperature": 0, "max_new_tokens": N_TOKENS}
    server = start(str(mixture), port, folder / "log", flag="--mixture_path")
    try:
        bodies = [
            {
                "messages": [{"role": "user", "content": prompt}],
                "user": person,
                "temperature": 0,
                "max_tokens": N_TOKENS,
            }
            for prompt, person in zip(prompts, people, strict=True)
        ]
        said: list[str] = []

        def by_the_door() -> None:
            said[:] = asyncio.run(answers(port, bodies))

        direct, door = in_turn(
            lambda: policy.generate(prompts, annotator_ids=people, batch_size=64, **options),
            by_the_door,
            script.n_rounds,
        )
        wanted = policy.generate(prompts, annotator_ids=people, batch_size=64, **options)
    finally:
        server.terminate()
        server.wait(30)
    return {
        "generate_answers_per_second": N_ANSWERS / direct, "served_answers_per_second": N_ANSWERS / door,
        "served_equal_answers": sum(a == b for a, b in zip(wanted, said, strict=True)) / N_ANSWERS,
    }  # fmt: skip


async def answers(port: int, bodies: list[dict]) -> list[str]:
    """Texts of requests that are open at the same time."""
    from measure_serving import post

    found = await asyncio.gather(*(post(port, body, path="/v1/chat/completions") for body in bodies))
    return [answer["choices"][0]["message"]["content"] for _, answer in found]


def make_mixture(folder: Path, script: argparse.Namespace) -> Path:
    """Types with random adapters on an untrained base, and people dealt among them."""
    torch.manual_seed(0)
    tokenizer = make_tiny_tokenizer([" ".join(p for p, _, _ in made_rows(64))])
    base = make_tiny_lm(tokenizer, hidden_size=script.hidden_size, n_layers=script.n_layers)
    folder.mkdir()
    base.save_pretrained(folder / "base_model")
    tokenizer.save_pretrained(folder / "base_model")
    tokenizer.save_pretrained(folder)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = add_type_adapters(base, config, N_TYPES, seed=0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_type_adapters(policy, folder)
    people = AnnotatorIndex(f"annotator-{i}" for i in range(PEOPLE))
    gamma = np.eye(N_TYPES)[np.arange(PEOPLE) % N_TYPES]
    save_mixture(MixtureRecord(people, gamma, np.ones(PEOPLE, int), gamma.mean(0), 0.1, 1024, None), folder)
    return folder


if __name__ == "__main__":
    main()
