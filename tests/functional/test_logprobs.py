"""Log-probabilities of completions: by hand, against log_softmax, whatever the padding holds."""

import math

import pytest
import torch

from palign.functional.logprobs import completion_logps, expected_logps, linear_head_logps, token_logps


def test_by_hand() -> None:
    """Vocabulary of two, logits (0, log 3): probabilities 1/4 and 3/4. Tokens 1 and 0: log 3/16."""
    logits = torch.tensor([0.0, math.log(3.0)]).expand(1, 4, 2)
    found = completion_logps(logits, torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 1, 1, 0]]))
    assert found.tolist() == pytest.approx([math.log(3 / 16)], abs=1e-6)


def test_equals_log_softmax_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(11, (5, 7), generator=generator)
    mask = torch.randint(2, (5, 7), generator=generator)
    expected = (logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]).sum(1)
    found = completion_logps(logits, ids, mask)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weights = torch.arange(5.0, dtype=torch.float64)
    mine, theirs = (torch.autograd.grad((x * weights).sum(), logits, retain_graph=True)[0] for x in (found, expected))
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_what_stands_outside_the_completion_is_not_read() -> None:
    logits, ids = torch.randn(2, 5, 6), torch.randint(6, (2, 5))
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    found = completion_logps(logits, ids, mask)
    other = logits.clone()
    other[0, [0, 3, 4]], other[1, [2, 3, 4]] = float("nan"), float("inf")
    torch.testing.assert_close(completion_logps(other, ids.masked_fill(mask == 0, -100), mask), found)


def test_half_precision_is_summed_in_float32() -> None:
    logits, ids = torch.randn(2, 300, 50).bfloat16(), torch.randint(50, (2, 300))
    found = completion_logps(logits, ids, torch.ones_like(ids))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, completion_logps(logits.double(), ids, torch.ones_like(ids)).float())


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"logits \(2, 3, 4\), input_ids \(2, 4\)"):
        completion_logps(torch.zeros(2, 3, 4), torch.zeros(2, 4).long(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"targets \(2, 4\)"):
        token_logps(torch.zeros(2, 3, 4), torch.zeros(2, 4).long())


def test_a_linear_head_by_hand():
    """Two words, states 1 and 2, weights 1 and 0: logits (1, 0) and (2, 0); targets 0 and 1."""
    states = torch.tensor([[1.0], [2.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0]])
    logps = linear_head_logps(states, weight, None, torch.tensor([0, 1]), logits_at_once=1)
    expected = torch.tensor([1 - math.log(math.e + 1), -math.log(math.e**2 + 1)])
    torch.testing.assert_close(logps, expected)
    logps.sum().backward()  # 1 − σ(1), and 0 − σ(2)
    sigmoid = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))]
    torch.testing.assert_close(states.grad[:, 0], torch.tensor([1 - sigmoid[0], -sigmoid[1]]))


def test_a_linear_heads_gradient_agrees_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((7, 3), (7,)))
    targets = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda x: linear_head_logps(x, weight, bias, targets, logits_at_once=2), states)


def test_a_linear_head_of_no_tokens():
    states = torch.empty(0, 3, requires_grad=True)
    logps = linear_head_logps(states, torch.ones(4, 3), None, torch.empty(0, dtype=torch.int64), logits_at_once=2)
    logps.sum().backward()
    assert logps.shape == (0,) and states.grad.shape == (0, 3)


@pytest.mark.parametrize("logits_at_once", [1, 3, 20, 1000])
@pytest.mark.parametrize("has_bias", [False, True])
def test_expected_logps_are_sums_over_the_vocabulary(logits_at_once, has_bias):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64) if has_bias else None
    states = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    targets = torch.randint(11, (7,), generator=generator)
    logps, expected = expected_logps(states, 1, weight, bias, targets, logits_at_once=logits_at_once)
    shift = 0 if bias is None else bias
    tables = (states @ weight.T + shift).log_softmax(-1)
    torch.testing.assert_close(logps, tables.gather(-1, targets.expand(3, 7)[..., None])[..., 0])
    torch.testing.assert_close(expected, (tables[1].exp() * tables).sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gap", [5.0, 30.0, 200.0])
def test_a_target_however_unlikely(dtype: torch.dtype, gap: float) -> None:
    """Words with logits 0, gap and −gap: p(first) is 1 / (1 + e^gap + e^−gap); odds to it leave what a number holds.

    The gradient is 0 − Σ p · logit of a weight that is the logit, so −gap · (p(second) − p(third)).
    """
    states = torch.ones(2, 1, dtype=dtype, requires_grad=True)
    weight = torch.tensor([[0.0], [gap], [-gap]], dtype=dtype)
    logps = linear_head_logps(states, weight, None, torch.tensor([0, 1]), logits_at_once=4)
    assert logps.tolist() == pytest.approx([-gap, 0.0], rel=1e-2 / gap, abs=1e-2)
    logps[0].backward()
    likelier = 1 - math.exp(-gap) - math.exp(-2 * gap)  # but for its third digit at a gap of 5
    assert states.grad[:, 0].tolist() == pytest.approx(
        [-gap * likelier, 0.0], rel=2e-3 if dtype == torch.float32 else 1e-2
    )


def test_no_more_logits_stand_together_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made, linear = [], torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *tensors: made.append(linear(*tensors)) or made[-1])
    generator = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(n, 3, generator=generator) for n in (50, 70))
    targets = torch.arange(50)
    for at_once in (1, 30, 400, 5000):
        made.clear()
        logps = linear_head_logps(states, weight, None, targets, logits_at_once=at_once)
        torch.testing.assert_close(logps, (states @ weight.T).log_softmax(-1)[targets, targets])
        assert at_once // 4 < max(logits.numel() for logits in made) <= at_once
        assert sum(logits.numel() for logits in made) == 50 * 70
