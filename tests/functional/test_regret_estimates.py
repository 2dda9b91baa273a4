"""Estimates of values on tiny policies whose exact values are enumerated; the bootstrap."""

import itertools
import time

import pytest
import torch

from palign.functional.regret_estimates import (
    bootstrap_game,
    bootstrap_means,
    bootstrap_policies,
    interval,
    max_interval,
    monte_carlo_values,
    prefix_expectation,
)
from tests.worlds.scripts import load_script

VOCAB, LENGTH = 3, 3  # token 0 ends the text; a text of LENGTH tokens ends anyhow


@pytest.fixture(scope="module")
def script():
    """`scripts/measure_regret.py`, where the populations are."""
    return load_script("measure_regret")


class TinyPolicy:
    """Logits of the next token for every prefix, drawn once: an autoregressive policy that can be enumerated."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = {
            prefix: torch.randn(VOCAB, dtype=torch.float64, generator=generator)
            for n in range(LENGTH)
            for prefix in itertools.product(range(1, VOCAB), repeat=n)
        }

    def along(self, text: tuple[int, ...]) -> torch.Tensor:
        """(LENGTH, VOCAB) logits at each step of a text; zeros after its end."""
        rows = [self.logits[text[:t]] for t in range(len(text))]
        return torch.stack([*rows, *[torch.zeros(VOCAB, dtype=torch.float64)] * (LENGTH - len(text))])

    def log_probability(self, text: tuple[int, ...]) -> float:
        return sum(self.logits[text[:t]].log_softmax(0)[text[t]].item() for t in range(len(text)))


def texts() -> list[tuple[int, ...]]:
    """Every text: words, then 0 or the limit."""
    found = []
    for n in range(LENGTH):
        found += [(*words, 0) for words in itertools.product(range(1, VOCAB), repeat=n)]
    return found + list(itertools.product(range(1, VOCAB), repeat=LENGTH))


def batch_of(policy: TinyPolicy) -> torch.Tensor:
    """(n_texts, LENGTH, VOCAB)."""
    return torch.stack([policy.along(text) for text in texts()])


def test_prefix_expectation_is_unbiased_and_quieter() -> None:
    speaker, kind, reference = (TinyPolicy(seed) for seed in range(3))
    probabilities = torch.tensor([speaker.log_probability(text) for text in texts()], dtype=torch.float64).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    sampled = torch.tensor(
        [kind.log_probability(text) - reference.log_probability(text) for text in texts()], dtype=torch.float64
    )
    mask = torch.tensor([[t < len(text) for t in range(LENGTH)] for text in texts()])
    expected = prefix_expectation(batch_of(speaker), batch_of(kind), batch_of(reference), mask)
    truth = (probabilities * sampled).sum().item()
    # its expectation over all texts is exact, its variance a fraction
    assert (probabilities * expected).sum().item() == pytest.approx(truth, abs=1e-12)
    variances = [(probabilities * (x - truth) ** 2).sum().item() for x in (sampled, expected)]
    assert variances[1] < 0.5 * variances[0]


def test_prefix_expectation_of_one_step_by_hand() -> None:
    # π = (1/2, 1/2, 0), type (1/2, 1/4, 1/4), reference (1/4, 1/2, 1/4): ½ ln 2 + ½ ln ½ = 0, with a token unsaid
    logits = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], dtype=torch.float64).log()
    policy, kind, reference = logits[:, None]
    one = torch.ones(1, dtype=torch.bool)
    assert prefix_expectation(policy, kind, reference, one).item() == pytest.approx(0, abs=1e-14)
    # h of the policy's own gain: KL(π_1 ‖ ref) = ½ ln 2 + ¼ ln ½
    expected = prefix_expectation(kind, kind, reference, one).item()
    assert expected == pytest.approx(0.25 * torch.tensor(2.0).log().item(), abs=1e-7)
    # tokens that neither says: 0, not NaN
    assert prefix_expectation(policy, policy, policy, one).item() == 0.0


def test_prefix_expectation_broadcasts_and_reads_no_padding() -> None:
    policy, reference = torch.randn(2, 4, 5), torch.randn(2, 4, 5)
    types = torch.randn(3, 2, 4, 5)
    mask = torch.tensor([[True, True, False, False], [False, True, True, True]])
    together = prefix_expectation(policy, types, reference, mask)
    assert together.shape == (3, 2)
    spoiled = reference.masked_fill(~mask[..., None], float("nan"))
    for k in range(3):
        torch.testing.assert_close(prefix_expectation(policy, types[k], spoiled, mask), together[k])
    half = prefix_expectation(policy.bfloat16(), types.bfloat16(), reference.bfloat16(), mask)
    assert half.dtype == torch.float32


def test_monte_carlo_by_hand() -> None:
    # two prompts, two samples, one type, two policies
    log_ratios = torch.tensor([[[[1.0, 0.0]], [[3.0, 4.0]]], [[[0.0, 0.0]], [[0.0, -2.0]]]])
    assert monte_carlo_values(log_ratios).tolist() == [[[2, 2]], [[0, -1]]]
    log_ratios[1, 0, 0, 1] = float("nan")
    with pytest.raises(ValueError, match="prompt 1, sample 0 of policy 1 under type 0 is nan"):
        monte_carlo_values(log_ratios)
    with pytest.raises(ValueError, match=r"\(n_prompts, n_samples, n_types, n_policies\)"):
        monte_carlo_values(log_ratios[0])


def test_enough_samples(script) -> None:
    errors, excesses = zip(
        *(script.estimation_error(script.equal_scale_population(seed), 512, 4, seed + 100) for seed in range(8)),
        strict=True,
    )
    assert sum(errors) / 8 < 0.12 and max(excesses) < 0.05


def test_expectations_of_all_prompts_are_exact(script) -> None:
    population = script.equal_scale_population(0)
    values = script.expected_log_ratios(population, torch.arange(48)).mean(0)
    h = population.log_types - population.log_reference
    for i in range(3):
        wanted = [(log_policy.exp() * h[i]).sum().item() / 48 for log_policy in population.log_types]
        assert values[i].tolist() == pytest.approx(wanted, abs=1e-12)


def test_error_shrinks_with_the_root_of_the_samples(script) -> None:
    population = script.equal_scale_population(0)
    few, many = (
        sum(script.estimation_error(population, n, 2, seed)[0] for seed in range(30)) / 30 for n in (64, 64 * 16)
    )
    assert few / many == pytest.approx(4, rel=0.3)


def test_interval_of_a_mean_by_hand() -> None:
    # the mean of 400 prompts of standard deviation 1 lies within 1.96/20; the draws are of the same mean
    values = torch.tensor([-1.0, 1.0]).repeat(200)
    draws = bootstrap_means(values, n_draws=4000)
    found = interval(values.double().mean(), draws)
    assert found.low.item() == pytest.approx(-1.96 / 20, abs=0.01)
    assert found.high.item() == pytest.approx(1.96 / 20, abs=0.01)
    assert draws.mean().item() == pytest.approx(0, abs=0.005)
    assert torch.equal(draws, bootstrap_means(values, n_draws=4000))
    assert not torch.equal(draws, bootstrap_means(values, n_draws=4000, seed=1))


def test_bootstrap_of_a_game_without_noise() -> None:
    # every prompt alike: R = [[0, 3], [1, 0]] in each draw, so w = (3/4, 1/4) and value 3/4, certain
    values = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).expand(20, 2, 2)
    found = bootstrap_game(values, n_draws=10)
    assert found.regrets.estimate.tolist() == [[0, 3], [1, 0]]
    for part in (found.policy_weights.low, found.policy_weights.estimate, found.policy_weights.high):
        assert part.tolist() == pytest.approx([0.75, 0.25])
    assert found.value.low.item() == pytest.approx(0.75) and found.value.high.item() == pytest.approx(0.75)
    assert bootstrap_game(values, n_draws=10, type_importance=[1.0, 3.0], beta=2.0).game.value == pytest.approx(3.0)


@pytest.mark.slow
def test_intervals_cover_the_truth(script) -> None:
    population = script.equal_scale_population(1)
    truth = script.solve_minmax_regret(population.regrets())
    is_covered, of_value = [], []
    for seed in range(20):
        log_ratios, _ = script.sampled_log_ratios(population, 256, 2, seed)
        found = bootstrap_game(monte_carlo_values(log_ratios), n_draws=100, seed=seed)
        is_covered.append((found.regrets.low <= population.regrets()) & (population.regrets() <= found.regrets.high))
        of_value.append(found.value.low <= truth.value <= found.value.high)
    off_diagonal = ~torch.eye(3, dtype=torch.bool)
    assert torch.stack(is_covered)[:, off_diagonal].double().mean() > 0.85
    assert sum(of_value) >= 15


def test_policies_are_compared_on_the_same_draws() -> None:
    # the second policy loses exactly .1 more to both types on every prompt: the difference is certain
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(50, 2, 1, generator=generator, dtype=torch.float64)
    found = bootstrap_policies(torch.cat([first, first - 0.1], 2), own_values=torch.zeros(50, 2), n_draws=200)
    draws = found.max_regret.draws
    assert draws.shape == (200, 2)
    torch.testing.assert_close(draws[:, 1] - draws[:, 0], torch.full((200,), 0.1, dtype=torch.float64))
    assert found.max_regret.high[0] - found.max_regret.low[0] > 0.1
    assert found.mean_regret.estimate.tolist() == pytest.approx([-first.mean().item(), 0.1 - first.mean().item()])


def test_own_values_are_resampled_with_the_rest() -> None:
    # own value and value move together from prompt to prompt: the regret is 1 in every draw
    own = torch.arange(40.0)[:, None]
    found = bootstrap_policies(own[..., None] - 1, own_values=own, n_draws=20, beta=0.5)
    assert found.max_regret.low.item() == pytest.approx(0.5) and found.max_regret.high.item() == pytest.approx(0.5)
    square = torch.cat([own[..., None], own[..., None] - 1], 2)
    assert bootstrap_game(square, own_values=own, n_draws=20).regrets.high[0].tolist() == pytest.approx([0, 1])


def test_bootstrap_of_four_types_takes_seconds() -> None:
    values = torch.randn(512, 4, 4, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(4)
    start = time.process_time()
    found = bootstrap_game(values, n_draws=500)
    assert time.process_time() - start < 10
    assert found.policy_weights.draws.shape == (500, 4) and found.regrets.low.shape == (4, 4)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="1 prompts and 10 draws"):
        bootstrap_means(torch.zeros(1, 2), n_draws=10)
    with pytest.raises(ValueError, match="level is 95"):
        interval(torch.zeros(()), torch.zeros(10), level=95)
    with pytest.raises(ValueError, match=r"give \(n_prompts, n_types, n_policies\)"):
        bootstrap_game(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"own_values have shape \(3, 1\); give \(3, 2\)"):
        bootstrap_game(torch.zeros(3, 2, 2), own_values=torch.zeros(3, 1))


def test_largest_mean_far_from_the_others_has_its_own_interval() -> None:
    """Noise N(0, 1) on each of three, one of them 50 above: 50 ± 1.96."""
    noise = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = torch.tensor([0.0, 50.0, 1.0], dtype=torch.float64)
    found = max_interval(means, means + noise)
    assert (found.low.item(), found.high.item()) == pytest.approx((50 - 1.96, 50 + 1.96), abs=0.06)
    assert found.estimate.item() == 50 and found.draws.shape == (20_000,)


def test_largest_of_equal_means_is_covered() -> None:
    """Four equal means: percentiles of the bootstrapped maximum hold the truth in about half of the cases."""
    generator, truth, held, naive = torch.Generator().manual_seed(1), 1.0, [], []
    for seed in range(120):
        values = truth + torch.randn(64, 4, dtype=torch.float64, generator=generator)
        draws = bootstrap_means(values, n_draws=300, seed=seed)
        found, plain = max_interval(values.mean(0), draws), interval(values.mean(0).max(), draws.max(1).values)
        held.append(bool(found.low <= truth <= found.high))
        naive.append(bool(plain.low <= truth <= plain.high))
        assert found.low <= found.estimate <= found.high  # no number outside of its own interval
    assert sum(held) >= 109 and sum(naive) < 90  # .95 asked; two standard errors are .04


def test_interval_of_a_largest_mean_by_column() -> None:
    """Policies are treated one by one, and what has no noise is known."""
    draws = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]] * 5, dtype=torch.float64)
    found = max_interval(draws[0], draws)
    for ends in (found.estimate, found.low, found.high):
        assert ends.tolist() == [1.0, 3.0]
