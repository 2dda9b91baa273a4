"""Rows of a rollout in lanes: where they lie, and that passes over them say what passes over padded rows say."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from palign.functional.logprobs import drawn_logps
from palign.trainers.ppo.passes import PackedRows, StatePasses, lanes_of, settled
from tests.worlds.ppo_policy import tiny_policy

# two rows of (prompt | completion): 7 8 | 9 and 4 | 5 6
IDS = torch.tensor([[7, 8, 9, 0], [0, 4, 5, 6]])
MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])


def rollout() -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts padded in front, completions behind; rows of 2, 6, 3, 12, 4 and 4 tokens."""
    mask = torch.zeros(6, 12, dtype=torch.long)
    for row, (n_prompt, n_completion) in enumerate([(1, 1), (2, 4), (1, 2), (6, 6), (1, 3), (2, 2)]):
        mask[row, 6 - n_prompt : 6 + n_completion] = 1
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return ids, mask


def passes(**changes: object) -> StatePasses:
    options = {"temperature": 0.7, "is_divided": False, "may_read_head": True}
    return StatePasses(Accelerator(cpu=True), **(options | changes))


def test_lanes_by_hand() -> None:
    """The longest is 5: 5 | 3 + 2 | 3 + 1."""
    assert lanes_of([3, 5, 2, 3, 1]) == ([1, 0, 1, 2, 2], [0, 0, 3, 0, 3])
    assert lanes_of([]) == ([], [])


def test_a_row_to_a_lane_by_hand() -> None:
    found = PackedRows.of(IDS, MASK, 2, lanes=False)
    assert found.ids.tolist() == [[7, 8, 9], [4, 5, 6]] and found.positions is None
    assert found.targets.tolist() == [9, 5, 6]
    assert found.picked(found.ids).tolist() == [8, 4, 5], "the token before each target"
    assert found.grid(torch.tensor([0.1, 0.2, 0.3])).tolist() == [
        [pytest.approx(0.1), 0],
        [pytest.approx(0.2), pytest.approx(0.3)],
    ]


def test_two_rows_in_a_lane_by_hand() -> None:
    ids = torch.tensor([[7, 8, 9, 1], [0, 4, 5, 0], [0, 2, 3, 0]])
    found = PackedRows.of(ids, (ids > 0).long(), 2, lanes=True)
    assert found.ids.tolist() == [[7, 8, 9, 1], [4, 5, 2, 3]]
    assert found.positions.tolist() == [[0, 1, 2, 3], [0, 1, 0, 1]]
    assert found.picked(found.ids).tolist() == [8, 9, 4, 2]
    assert found.targets.tolist() == [9, 1, 5, 3]


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize("n_at_once", [3, 100])
def test_log_probabilities_and_gradients_are_those_of_padded_rows(
    lanes: bool, n_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against log_softmax of the whole logits of the padded rows, with positions by hand."""
    model, _ = tiny_policy()
    monkeypatch.setattr("palign.trainers.ppo.passes.LOGITS_AT_ONCE", n_at_once * model.config.vocab_size)
    ids, mask = rollout()
    reads = passes()
    packed = PackedRows.of(ids, mask, 6, lanes=lanes)
    assert (packed.positions is not None) == lanes
    logps, entropies = reads.logps(model, packed, reads.states(model, packed))
    (logps * mask[:, 6:]).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, 5:-1] / 0.7
    every = torch.log_softmax(logits, -1)
    expected = every.gather(-1, ids[:, 6:, None]).squeeze(-1) * mask[:, 6:]
    expected.sum().backward()
    torch.testing.assert_close(logps, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, -(every.exp() * every).sum(-1) * mask[:, 6:], atol=1e-5, rtol=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_drawn_logps_by_hand() -> None:
    """Logits 0 and ln 3: chances 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10."""
    states, targets = torch.tensor([[0.0, 3.0]]).log().nan_to_num(neginf=0.0), torch.tensor([1])
    found, entropy = drawn_logps(states, nn.Identity(), targets, temperature=1.0, n_at_once=1)
    assert found.exp().tolist() == [pytest.approx(0.75)]
    assert entropy.item() == pytest.approx(0.562335, abs=1e-6)  # 1/4 ln 4 + 3/4 ln 4/3
    assert drawn_logps(states, nn.Identity(), targets, temperature=0.5, n_at_once=1)[0].exp().tolist() == [
        pytest.approx(0.9)
    ]


class Sums(nn.Module):
    """A model whose states are sums over all tokens of a lane so far, as a state-space model's: rows are felt."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.base_model, self.scale = nn.Embedding(50, 4), scale
        self.body = nn.Module()
        self.head = nn.Linear(4, 50, bias=False)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=50))
        self.base_model.forward = lambda ids: (nn.functional.embedding(ids, self.base_model.weight).cumsum(1),)

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.base_model(input_ids)[0]) * self.scale)


def test_a_model_whose_rows_feel_each_other_gets_no_lanes() -> None:
    ids, mask = rollout()
    reads = passes()
    reads.look_up(Sums(), ids, mask, 6)
    assert reads.keeps_apart is False
    assert all(part.positions is None for part in reads.packed(ids, mask, 6, None))
    attends = passes()
    attends.look_up(tiny_policy()[0], ids, mask, 6)
    assert attends.keeps_apart is True
    assert any(part.positions is not None for part in attends.packed(ids, mask, 6, None))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_scaled_logits_are_not_read_from_the_head(scale: float) -> None:
    ids, mask = rollout()
    reads = passes()
    reads.states(Sums(scale), PackedRows.of(ids, mask, 6, lanes=False))
    assert reads.head_is_plain is (scale == 1.0)


def test_divided_weights_take_as_many_passes_on_every_process() -> None:
    """Two rows at once, however short they are, and none in one lane."""
    ids, mask = rollout()
    with torch.no_grad():
        assert [len(part.ids) for part in passes(is_divided=True).packed(ids, mask, 6, 2)] == [2, 2, 2]
        assert [len(part.ids) for part in passes().packed(ids, mask, 6, 2)] == [6]


def test_a_settled_loss_gives_the_same_gradients() -> None:
    """(a b)² at a = 2, b = 3, and twice it: 2 · 2 · 6 · 3 = 72 and 2 · 2 · 6 · 2 = 48; c is not in it."""
    a, b, c = (nn.Parameter(torch.tensor(value)) for value in (2.0, 3.0, 4.0))
    loss = settled((a * b) ** 2, [a, b, c])
    assert loss.item() == 36
    (2 * loss + c).backward()
    assert (a.grad.item(), b.grad.item(), c.grad.item()) == (72, 48, 1)
