"""Heads: what PAL's formulas say, by hand, and what must leave margins alone."""

import math

import pytest
import torch

from palign.models.heads import ByteDropout, FixedPointHead, Mixing, PromptPointHead
from palign.models.pal_config import PALConfig
from tests.worlds.reward_models import HIDDEN

D = 6
FIXED = [(mixing, kind) for mixing in Mixing for kind in ("squared_distance", "distance", "cosine")]


def make_head(variant: str, *, seed: int = 0, **options: object) -> FixedPointHead | PromptPointHead:
    torch.manual_seed(seed)
    kind = FixedPointHead if variant == "fixed" else PromptPointHead
    options = {"n_prototypes": 3, "preference_dim": D, "inner_size": 12} | options
    head = kind(HIDDEN, **options).eval()
    states = torch.randn(100, HIDDEN) * 3 + 2
    head.standardize.fit(states)
    if variant == "prompt":
        head.standardize_prompt.fit(states)
    return head


def draw(n_items: int = 2, batch: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Items (batch, n_items, hidden), weights (batch, 3) and prompts (batch, hidden)."""
    generator = torch.Generator().manual_seed(5)
    items = torch.randn(batch, n_items, HIDDEN, generator=generator) * 3 + 2
    weights = torch.randn(batch, 3, generator=generator).softmax(1)
    return items, weights, torch.randn(batch, HIDDEN, generator=generator) * 3 + 2


def margins(scores: torch.Tensor) -> torch.Tensor:
    return scores[:, 0] - scores[:, 1]


def by_hand(network: torch.nn.Sequential, states: torch.Tensor) -> torch.Tensor:
    """f in evaluation, linear maps and GELU written out."""
    out = states
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            out = out @ layer.weight.T + layer.bias
        elif isinstance(layer, torch.nn.GELU):
            out = 0.5 * out * (1 + torch.erf(out / math.sqrt(2)))
    return out


@pytest.mark.parametrize(("mixing", "similarity"), FIXED)
def test_fixed_head_is_the_formula(mixing: Mixing, similarity: str) -> None:
    head = make_head("fixed", mixing=mixing, similarity=similarity)
    items, weights, _ = draw()
    x = by_hand(head.f, (items - head.standardize.center) * head.standardize.scale)
    p = head.prototypes.weight
    z = {
        "latent": lambda: weights @ p,
        "projected": lambda: weights @ by_hand(head.f, p),
        "input": lambda: by_hand(head.f, weights @ p),
    }[mixing]()[:, None]
    expected = {
        "squared_distance": -((x - z) ** 2).sum(-1),
        "distance": -torch.linalg.vector_norm(x - z, dim=-1),
        "cosine": (x * z).sum(-1) / x.norm(dim=-1) / z.norm(dim=-1) / 0.07,
    }[similarity]
    torch.testing.assert_close(head(items, weights), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_prompt_head_is_the_formula(n_layers: int) -> None:
    head = make_head("prompt", n_layers=n_layers)
    items, weights, prompts = draw()
    x = by_hand(head.f, (items - head.standardize.center) * head.standardize.scale)
    c = (prompts - head.standardize_prompt.center) * head.standardize_prompt.scale
    z = sum(weights[:, k, None] * by_hand(g, c) for k, g in enumerate(head.g))[:, None]
    expected = (x * z).sum(-1) / x.norm(dim=-1) / z.norm(dim=-1) / 0.07
    torch.testing.assert_close(head(items, weights, prompts), expected, atol=1e-4, rtol=1e-4)


def test_scale_of_the_cosine_starts_at_one_over_007_and_stops_at_100() -> None:
    head = make_head("prompt")
    items, weights, prompts = draw()
    assert math.isclose(head.log_scale.exp().item(), 1 / 0.07, rel_tol=1e-6)
    at_start = head(items, weights, prompts)
    for log_scale, scale in ((0.0, 1.0), (math.log(100), 100.0), (9.0, 100.0)):
        head.log_scale.data.fill_(log_scale)
        torch.testing.assert_close(head(items, weights, prompts), at_start * 0.07 * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_margins_are_antisymmetric(variant: str) -> None:
    head = make_head(variant)
    items, weights, prompts = draw()
    torch.testing.assert_close(
        margins(head(items.flip(1), weights, prompts)), -margins(head(items, weights, prompts)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_order_of_prototypes_does_not_matter(variant: str) -> None:
    head, other = make_head(variant), make_head(variant)
    items, weights, prompts = draw()
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        if variant == "fixed":
            other.prototypes.weight.copy_(head.prototypes.weight[order])
        else:
            for k, source in enumerate(order.tolist()):
                other.g[k].load_state_dict(head.g[source].state_dict())
    expected = margins(head(items, weights, prompts))
    torch.testing.assert_close(margins(other(items, weights[:, order], prompts)), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(margins(other(items, weights, prompts)), expected, atol=1e-3)  # weights must go along


@pytest.mark.parametrize("similarity", ["squared_distance", "distance"])
def test_preference_space_may_be_turned_and_moved(similarity: str) -> None:
    head, other = make_head("fixed", similarity=similarity), make_head("fixed", similarity=similarity)
    items, weights, _ = draw()
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1)))[0]
    shift = torch.linspace(-2, 2, D)
    with torch.no_grad():
        last = other.f[-1]
        last.weight.copy_(turn @ head.f[-1].weight)
        last.bias.copy_(turn @ head.f[-1].bias + shift)
        expected = margins(head(items, weights))
        assert not torch.allclose(margins(other(items, weights)), expected, atol=1e-2)  # the prototypes must go along
        other.prototypes.weight.copy_(head.prototypes.weight @ turn.T + shift)
    torch.testing.assert_close(margins(other(items, weights)), expected, rtol=0, atol=1e-5)


def mixed_margins(head: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Δ(w), and Σ_k w_k Δ_k."""
    items, weights, prompts = draw()
    whole = margins(head(items, weights, prompts))
    each = [head.prototype_scores(items[:, i], prompts) for i in range(2)]
    return whole, (weights * (each[0] - each[1])).sum(1)


@pytest.mark.parametrize("mixing", ["latent", "projected"])
def test_margin_is_linear_in_the_weights(mixing: str) -> None:
    head = make_head("fixed", mixing=mixing)
    assert head.margin_is_linear
    torch.testing.assert_close(*mixed_margins(head), rtol=0, atol=1e-5)


def test_margin_of_the_prompt_variant_with_squared_distance_is_linear() -> None:
    head = make_head("prompt", similarity="squared_distance")
    assert head.margin_is_linear
    torch.testing.assert_close(*mixed_margins(head), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("fixed", {"mixing": "input"}),
        ("fixed", {"similarity": "distance"}),
        ("fixed", {"similarity": "cosine"}),
        ("prompt", {}),
    ],
)
def test_margin_is_not_linear(variant: str, options: dict) -> None:
    head = make_head(variant, **options)
    assert not head.margin_is_linear
    whole, mixed = mixed_margins(head)
    assert (whole - mixed).abs().max() > 1e-3


def test_input_mixing_through_a_linear_f_is_projected_mixing() -> None:
    heads = [make_head("fixed", mixing=mixing, n_layers=1) for mixing in ("input", "projected")]
    heads[1].load_state_dict(heads[0].state_dict())
    items, weights, _ = draw()
    torch.testing.assert_close(heads[0](items, weights), heads[1](items, weights), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("mixing", "similarity"), FIXED)
def test_scores_for_all_agree_with_scores_one_by_one(mixing: Mixing, similarity: str) -> None:
    head = make_head("fixed", mixing=mixing, similarity=similarity)
    items, weights, _ = draw(n_items=4)
    table = head.scores_for_all(items, weights)
    assert table.shape == (7, 4, 7)
    for s in range(7):
        torch.testing.assert_close(table[..., s], head(items, weights[s].expand(7, -1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("similarity", ["squared_distance", "distance", "cosine"])
def test_scores_for_all_agree_where_points_depend_on_prompts(similarity: str) -> None:
    head = make_head("prompt", similarity=similarity)
    items, weights, prompts = draw(n_items=4)
    table = head.scores_for_all(items, weights[:5], prompts)
    assert table.shape == (7, 4, 5)
    for s in range(5):
        expected = head(items, weights[s].expand(7, -1), prompts)
        torch.testing.assert_close(table[..., s], expected, rtol=1e-4, atol=1e-4)


def test_one_item_or_many_give_the_same() -> None:
    items, weights, prompts = draw(n_items=3)
    for head in (make_head("fixed"), make_head("prompt")):
        together = head(items, weights, prompts)
        assert together.shape == (7, 3)
        torch.testing.assert_close(head(items[:, 1], weights, prompts), together[:, 1], rtol=0, atol=1e-5)


def test_pair_of_heads_as_wide_as_in_the_paper() -> None:
    head = PromptPointHead(1024, n_prototypes=1, preference_dim=1024, inner_size=1024, n_layers=3)
    linear = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) == 6
    assert sum(p.numel() for network in (head.f, *head.g) for p in network.parameters()) == 6_297_600


def test_prompts_are_asked_for() -> None:
    items, weights, _ = draw()
    with pytest.raises(ValueError, match="prompt_index"):
        make_head("prompt")(items, weights)


def test_standardisation_is_fitted_on_items_and_saved() -> None:
    head = make_head("fixed")
    states = torch.randn(500, HIDDEN) * torch.linspace(1, 4, HIDDEN) + 10
    head.standardize.fit(states)
    moved = (states - head.standardize.center) * head.standardize.scale
    torch.testing.assert_close(moved.mean(0), torch.zeros(HIDDEN), atol=1e-4, rtol=0)
    assert math.isclose(moved.square().mean().sqrt(), 0.5, rel_tol=1e-4)
    assert {"standardize.center", "standardize.scale"} <= head.state_dict().keys()


def test_items_that_are_all_equal_do_not_divide_by_nothing() -> None:
    head = make_head("fixed")
    head.standardize.fit(torch.ones(10, HIDDEN))
    assert head.points(torch.ones(2, HIDDEN)).isfinite().all()


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.4, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(rate: float) -> None:
    torch.manual_seed(0)
    layer, inputs = ByteDropout(rate), torch.ones(400, 1003)
    out = layer(inputs)
    assert abs(float((out == 0).float().mean()) - rate) < 4e-3
    assert abs(float(out.mean()) - 1) < 0.01
    assert torch.equal(layer.eval()(inputs), inputs)


@pytest.mark.parametrize("rate", [0.998, 0.999])
def test_dropout_of_nearly_everything_is_finite(rate: float) -> None:
    assert ByteDropout(rate)(torch.ones(100, 100)).isfinite().all()


def test_unit_scaling_keeps_directions_alone():
    head = PALConfig(HIDDEN, 2, scaling="unit", dropout=0.0).make_head().eval()
    states = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(0))
    head.standardize.fit(states)
    center = states.mean(0)
    expected = head.f(0.5 * HIDDEN**0.5 * (states - center) / (states - center).norm(dim=1, keepdim=True))
    torch.testing.assert_close(head.points(states), expected, rtol=1e-4, atol=1e-5)
    farther = center + 3 * (states - center)
    torch.testing.assert_close(head.points(farther), expected, rtol=1e-4, atol=1e-5)


def test_scaling_is_one_of_two():
    with pytest.raises(ValueError, match="scaling is 'length'; it must be one of common, unit"):
        PALConfig(HIDDEN, 2, scaling="length")


def test_the_metric_head_is_a_mahalanobis_distance_to_a_mixed_point() -> None:
    """−(x − u)ᵀ M (x − u) with u = centre + w P / scale, whatever the bias of the linear map."""
    torch.manual_seed(0)
    config = PALConfig(HIDDEN, 3, variant="metric", preference_dim=D)
    assert (config.n_layers, config.mixing, config.similarity) == (1, "projected", "squared_distance")
    head = config.make_head().eval()
    head.standardize.fit(torch.randn(100, HIDDEN) * 3 + 2)
    items, weights, _ = draw()
    points = head.standardize.center + weights @ head.prototypes.weight / head.standardize.scale
    gaps = items - points[:, None]
    wanted = -((gaps @ head.metric) * gaps).sum(-1)
    torch.testing.assert_close(head(items, weights), wanted, rtol=1e-4, atol=1e-4)
    values = torch.linalg.eigvalsh(head.metric)
    assert float(values[0]) > -1e-5 and int((values > 1e-5).sum()) == D
    assert head.margin_is_linear
