"""How far from the reference one policy must go for what it gives the type it serves worst, in a built-in population.

    python scripts/measure_kl_of_optimum.py --population shared

The population's own writer stands for the reference. Among all policies of its texts, that of the greatest worst
utility at a price λ of KL is the writer tilted by Σ_k w_k u_k / λ, with the weights w at which no type gets less than
the others (mirror descent on w). Prints worst utility, part of the way from the writer to the exact optimum, and KL,
by price.
"""

import argparse
from collections import Counter

import numpy as np

from palign.data.synthetic_optimum import best_single_policy
from palign.data.synthetic_text import POPULATIONS, gold_utility, make_prompts, write_completion

PRICES = (0.5, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)


def written(types: tuple[str, ...], n_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """(n_kinds, n_types) utilities of texts that are drawn, and the (n_kinds,) share of each kind."""
    rng, prompts = np.random.default_rng(0), make_prompts()
    texts = (write_completion(prompts[i % len(prompts)], rng) for i in range(n_texts))
    kinds = Counter(tuple(round(gold_utility(text, name), 6) for name in types) for text in texts)
    return np.array(list(kinds)), np.array(list(kinds.values())) / n_texts


def at_price(
    utilities: np.ndarray, shares: np.ndarray, price: float, *, n_steps: int = 20_000, step: float = 0.02
) -> tuple[float, float]:
    """Worst utility and KL (nats) of the best policy at a price of KL, in utility a nat."""
    weights = np.full(utilities.shape[1], 1 / utilities.shape[1])
    for _ in range(n_steps):
        logs = np.log(shares) + utilities @ weights / price
        policy = np.exp(logs - logs.max())
        policy /= policy.sum()
        by_type = policy @ utilities
        weights = weights * np.exp(-step * (by_type - by_type.mean()))
        weights /= weights.sum()
    kept = policy > 0
    return float(by_type.min()), float(policy[kept] @ np.log(policy[kept] / shares[kept]))


def main() -> list[tuple[float, float]]:
    """Print a line for each price; returns worst utility and KL of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--population", choices=sorted(POPULATIONS), default="shared")
    parser.add_argument("--n_texts", type=int, default=50_000)
    args = parser.parse_args()
    types = POPULATIONS[args.population].types
    utilities, shares = written(types, args.n_texts)
    start, optimum = float((shares @ utilities).min()), best_single_policy(types).value
    print(f"the writer gives {start:.3f}, the optimum is {optimum:.6f}")
    found = [at_price(utilities, shares, price) for price in PRICES]
    for price, (worst, kl) in zip(PRICES, found, strict=True):
        print(f"price {price}: worst {worst:.3f}, {(worst - start) / (optimum - start):.1%} of the way, {kl:.2f} nats")
    return found


if __name__ == "__main__":
    main()
