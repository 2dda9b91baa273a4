"""The figures that shared/spec/fair_policy.md asks of the game and of tabular policies, asked beside measured.

    python scripts/measure_regret.py

The specification gives sizes and seeds of its populations; scales, reference and prior are chosen here, once, and
stated at `equal_scale_population` and `noisy_population`. Orderings carry over, third digits do not.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palign.functional.regret import choose_within_budget, regret_matrix, solve_minmax_regret
from palign.functional.regret_estimates import bootstrap_game, monte_carlo_values, prefix_expectation
from palign.functional.regret_hedge import exponentiated_gradient, optimistic_hedge
from palign.functional.regret_policies import (
    KLMinmax,
    kl_divergence,
    kl_minmax,
    kl_minmax_at_budget,
    mixture_policy,
    pooled_dpo_policy,
    tabular_regrets,
)

PRIOR = (0.6, 0.3, 0.1)
BETA = 1.0


@dataclass(frozen=True)
class Population:
    """Types with a reward each, and the policies that are best for them.

    Attributes:
        rewards: (n_types, n_prompts, n_responses).
        votes: (n_types, n_prompts, n_responses, n_responses) probability that the former is preferred to the latter.
        log_types: (n_types, n_prompts, n_responses) each type's own policy.
        log_reference: (n_prompts, n_responses).
    """

    rewards: Tensor
    votes: Tensor
    log_types: Tensor
    log_reference: Tensor

    def max_regret(self, log_policy: Tensor) -> float:
        return tabular_regrets(self.log_types, log_policy[None], self.log_reference, beta=BETA).max().item()

    def kl(self, log_policy: Tensor) -> float:
        return kl_divergence(log_policy, self.log_reference).item()

    def regrets(self) -> Tensor:
        return tabular_regrets(self.log_types, self.log_types, self.log_reference, beta=BETA)


def equal_scale_population(seed: int, *, n_prompts: int = 48, n_responses: int = 8, scale: float = 1.4) -> Population:
    """Three types: independent normal rewards of mean 0 for each prompt and one root mean square for each type, 1.4.

    The reference has standard normal logits, β is 1.
    """
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3, n_prompts, n_responses, generator=generator, dtype=torch.float64)
    rewards = rewards - rewards.mean(-1, keepdim=True)
    rewards = scale * rewards / rewards.square().mean((1, 2), keepdim=True).sqrt()
    reference = torch.randn(n_prompts, n_responses, generator=generator, dtype=torch.float64).log_softmax(-1)
    return _population(rewards, (rewards[..., :, None] - rewards[..., None, :]).sigmoid(), reference)


def noisy_population(seed: int, *, noise: float = 0.8) -> Population:
    """The same, but four in five votes of the last type are coin flips; each type's policy is its own DPO optimum."""
    clear = equal_scale_population(seed)
    share = torch.tensor([0.0, 0.0, noise], dtype=torch.float64)[:, None, None, None]
    votes = (1 - share) * clear.votes + share / 2
    single = torch.eye(3, dtype=torch.float64)
    own = [pooled_dpo_policy(votes, weights, clear.log_reference, beta=BETA) for weights in single]
    return Population(clear.rewards, votes, torch.stack(own), clear.log_reference)


def _population(rewards: Tensor, votes: Tensor, log_reference: Tensor) -> Population:
    return Population(rewards, votes, (log_reference + rewards / BETA).log_softmax(-1), log_reference)


def dpo_losses(population: Population, log_policy: Tensor) -> Tensor:
    """(n_types,) expected DPO loss of one policy under the votes of each type, nats."""
    scores = BETA * (log_policy - population.log_reference)
    losses = torch.nn.functional.softplus(-(scores[:, :, None] - scores[:, None]))
    n_responses = scores.shape[1]
    pairs = 1 - torch.eye(n_responses, dtype=scores.dtype)
    mean = (population.votes * losses * pairs).sum((1, 2, 3)) / (len(scores) * n_responses * (n_responses - 1) / 2)
    return mean


def group_robust_dpo(population: Population, *, subtract_own: bool, n_rounds: int = 200, step: float = 5.0) -> Tensor:
    """DPO under exponentiated-gradient weights on types, each round with the best policy for them: log-probabilities.

    Args:
        subtract_own: whether weights follow L_k(θ) − L_k(φ_k), or L_k(θ) itself.
    """
    offset = torch.zeros(len(population.votes), dtype=torch.float64)
    if subtract_own:
        offset = torch.stack([dpo_losses(population, own)[k] for k, own in enumerate(population.log_types)])
    weights = torch.full_like(offset, 1 / len(offset))
    for _ in range(n_rounds):
        policy = pooled_dpo_policy(population.votes, weights, population.log_reference, beta=BETA)
        weights = exponentiated_gradient(weights, dpo_losses(population, policy) - offset, step_size=step)
    return pooled_dpo_policy(population.votes, weights, population.log_reference, beta=BETA)


def sampled_log_ratios(population: Population, n_prompts: int, n_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """(n_prompts, n_samples, n_types, n_policies) h_i of responses that policy j gave, and (n_prompts,) whose prompts.

    Prompts are drawn from the population's with replacement; every policy answers the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(population.log_reference.shape[0], (n_prompts,), generator=generator)
    log_ratios = (population.log_types - population.log_reference)[:, prompts]
    columns = []
    for log_policy in population.log_types:
        said = torch.multinomial(log_policy[prompts].exp(), n_samples, replacement=True, generator=generator)
        columns.append(log_ratios.gather(2, said.expand(len(log_ratios), -1, -1)))
    return torch.stack(columns, -1).permute(1, 2, 0, 3), prompts


def expected_log_ratios(population: Population, prompts: Tensor) -> Tensor:
    """(n_prompts, n_types, n_policies): the expectation over all responses, by `prefix_expectation`."""
    logits = population.log_types[None, :, prompts, None].expand(3, -1, -1, -1, -1)  # policy, type, prompt, step, word
    mask = torch.ones(len(prompts), 1, dtype=torch.bool)
    values = prefix_expectation(logits.transpose(0, 1), logits, population.log_reference[prompts, None], mask)
    return values.permute(2, 1, 0)


def estimation_error(
    population: Population, n_prompts: int, n_samples: int, seed: int, *, by_expectation: bool = False
) -> tuple[float, float]:
    """Largest error of an entry of R, and by how much the estimated weights exceed the true value of the game."""
    log_ratios, prompts = sampled_log_ratios(population, n_prompts, n_samples, seed)
    per_prompt = expected_log_ratios(population, prompts) if by_expectation else monte_carlo_values(log_ratios)
    estimated = regret_matrix(per_prompt.mean(0), beta=BETA)
    truth = population.regrets()
    weights = solve_minmax_regret(estimated).policy_weights
    excess = (truth @ weights).max().item() - solve_minmax_regret(truth).value
    return (estimated - truth).abs().max().item(), excess


def ordering(seed: int) -> dict[str, float]:
    """Max regret of each route on the equal-scale population."""
    population = equal_scale_population(seed)
    prior = torch.tensor(PRIOR, dtype=torch.float64)
    game = solve_minmax_regret(population.regrets())
    mixture = mixture_policy(population.log_types, game.policy_weights)
    uniform = mixture_policy(population.log_types, torch.full((3,), 1 / 3, dtype=torch.float64))
    pooled = pooled_dpo_policy(population.votes, prior, population.log_reference, beta=BETA)
    return {
        "mixture": population.max_regret(mixture),
        "uniform": population.max_regret(uniform),
        "prior-weighted": population.max_regret(mixture_policy(population.log_types, prior)),
        "pooled DPO": population.max_regret(pooled),
        "reference": population.max_regret(population.log_reference),
        "re-optimised geometric at the mixture's KL": at_equal_kl(population, mixture).regrets.max().item(),
    }


def at_equal_kl(population: Population, log_policy: Tensor) -> KLMinmax:
    """The fairest policy as far from the reference as the one given."""
    budget = population.kl(log_policy)
    return kl_minmax_at_budget(population.log_types, population.log_reference, kl_budget=budget, beta=BETA)


def robust_against_noise(seed: int, n_rounds: int = 200) -> tuple[float, float]:
    """Max regret of group-robust DPO without and with each type's own loss subtracted."""
    population = noisy_population(seed)
    without, with_ = (group_robust_dpo(population, subtract_own=x, n_rounds=n_rounds) for x in (False, True))
    return population.max_regret(without), population.max_regret(with_)


def game_figures(n_games: int) -> list[tuple[str, str, str]]:
    """Exact solution against Hedge on 4 × 4 tables, 0 on the diagonal and .5 to 1.5 elsewhere."""
    errors = []
    for seed in range(n_games):
        table = 0.5 + torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        table.fill_diagonal_(0.0)
        exact, played = solve_minmax_regret(table), optimistic_hedge(table)
        weights = (exact.policy_weights - played.policy_weights).abs().max().item()
        errors.append((weights, abs(exact.value - played.value), played.gap, abs(exact.gap), played.bound))
    weights, value, gap, exact_gap, bound = (max(column) for column in zip(*errors, strict=True))
    return [
        ("Hedge: weights", "2e-3", f"{weights:.1e}"),
        ("Hedge: value", "1e-3", f"{value:.1e}"),
        ("Hedge: gap", f"{bound:.2e}", f"{gap:.2e}"),
        ("exact: gap", "0", f"{exact_gap:.1e}"),
    ]


def tabular_figures(seeds: range) -> list[tuple[str, str, str]]:
    """Orderings, noise and drift, averaged over seeds."""
    asked = (".956", "1.026", "1.321", "1.328", "1.514", ".884")
    tables = [ordering(seed) for seed in seeds]
    rows = []
    for name, figure in zip(tables[0], asked, strict=True):
        rows.append((f"max regret, {name}", figure, f"{sum(table[name] for table in tables) / len(tables):.3f}"))
    noisy = torch.tensor([robust_against_noise(seed) for seed in seeds]).mean(0).tolist()
    rows += [("dro without own losses", "1.14", f"{noisy[0]:.3f}"), ("dro with them", ".68", f"{noisy[1]:.3f}")]
    population = equal_scale_population(0)
    near = at_equal_kl(population, mixture_policy(population.log_types, torch.full((3,), 1 / 3).double()))
    far = kl_minmax(population.log_types, population.log_reference, kl_weight=0.1, beta=BETA)
    chosen = choose_within_budget(
        [near.regrets.max().item(), far.regrets.max().item()], [near.kl, far.kl], kl_budget=2 * near.kl
    )
    measured = f"{far.regrets.max().item():.3f} at {far.kl:.2f}, " + ("chosen" if chosen else "refused")
    return [*rows, ("drift: regret at KL", ".205 at 2.35, flagged", measured)]


def estimation_figures(seeds: range) -> list[tuple[str, str, str]]:
    """Errors of sampled tables; time of the bootstrap for four types."""
    rows = []
    plans = [
        (512, 4, False, "< .12", "< .05"),
        (512, 4, True, "", ""),
        (128, 1, False, "", ""),
        (8192, 4, False, "", ""),
    ]
    for n_prompts, n_samples, by_expectation, error, excess in plans:
        runs = []
        for seed in seeds:
            population = equal_scale_population(seed)
            runs.append(estimation_error(population, n_prompts, n_samples, seed + 100, by_expectation=by_expectation))
        how = f"{n_prompts} × {n_samples}" + (", expectations" if by_expectation else "")
        for name, column, figure in zip(("R error", "excess"), zip(*runs, strict=True), (error, excess), strict=True):
            measured = f"{sum(column) / len(column):.3f} (worst {max(column):.3f})"
            rows.append((f"{name}, {how}", figure, measured))
    values = torch.randn(512, 4, 4, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(4)
    seconds = _timed(lambda: bootstrap_game(values, n_draws=500))
    return [*rows, ("bootstrap of 500 games, 4 × 4, s", "< 10", f"{seconds:.2f}")]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_seeds", type=int, default=8)
    seeds = range(parser.parse_args().n_seeds)
    print("| figure | asked | measured |\n|---|---|---|")
    for section in (
        lambda: game_figures(len(seeds)),
        lambda: tabular_figures(seeds),
        lambda: estimation_figures(seeds),
    ):
        for row in section():
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
