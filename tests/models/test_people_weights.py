"""People: weights on the simplex, partition, strangers, and the population that stays when people are added."""

import logging

import pytest
import torch

from palign.models.people_weights import MAX_SUPPORT, AnnotatorWeights


def make_people(n: int = 6, k: int = 3, **options: object) -> AnnotatorWeights:
    torch.manual_seed(0)
    people = AnnotatorWeights(n, k, **options)
    torch.nn.init.normal_(people.logits.weight)
    return people.eval()


def test_weights_are_the_softmax_and_do_not_feel_a_shift() -> None:
    people, rows = make_people(), torch.tensor([4, 0, 4])
    weights = people(rows)
    expected = people.logits.weight[rows].exp() / people.logits.weight[rows].exp().sum(1, keepdim=True)
    torch.testing.assert_close(weights, expected)
    with torch.no_grad():
        people.logits.weight += torch.linspace(-3, 3, 6)[:, None]
    torch.testing.assert_close(people(rows), weights, atol=1e-5, rtol=0)


def test_partition_is_one_hot_at_evaluation_and_soft_in_training() -> None:
    people, soft = make_people(partition=True), make_people()
    rows = torch.arange(6)
    hard = people(rows)
    assert torch.equal(hard.sort(1).values, torch.tensor([[0.0, 0.0, 1.0]]).expand(6, -1))
    assert torch.equal(hard.argmax(1), soft(rows).argmax(1))
    assert torch.equal(people.train()(rows), soft(rows))


def test_strangers_get_the_mean_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    people = make_people()
    people.freeze_population()
    mean = people.all().mean(0)
    with caplog.at_level(logging.WARNING):
        weights = people(torch.tensor([-1, 2, -1]))
        people(torch.tensor([-1]))
    torch.testing.assert_close(weights[[0, 2]], mean.expand(2, -1))
    assert torch.equal(weights[1], people(torch.tensor([2]))[0])
    assert [record.getMessage().split()[0] for record in caplog.records] == ["2"]


def test_nobody_known_is_a_population_too() -> None:
    torch.testing.assert_close(AnnotatorWeights(0, 4).eval()(torch.tensor([-1, -1])), torch.full((2, 4), 0.25))


def test_adding_people_moves_no_bit_of_the_others() -> None:
    people = make_people()
    people.freeze_population()
    before, everything = people(torch.tensor([0, 5, -1])), people.state_dict()
    kept = {name: tensor.clone() for name, tensor in everything.items()}
    new = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    people.append(new)
    assert torch.equal(people(torch.tensor([0, 5, -1])), before)
    torch.testing.assert_close(people(torch.tensor([6, 7])), new, atol=1e-5, rtol=0)
    for name, tensor in people.state_dict().items():
        assert torch.equal(tensor[:6] if name == "logits.weight" else tensor, kept[name])


def test_stored_weights_are_read_back() -> None:
    people, new = make_people(), torch.tensor([[0.7, 0.3, 0.0]])
    others = people(torch.tensor([0, 1, 2, 4, 5]))
    people.store(new, torch.tensor([3]))
    torch.testing.assert_close(people(torch.tensor([3])), new, atol=1e-5, rtol=0)
    assert torch.equal(people(torch.tensor([0, 1, 2, 4, 5])), others)


def test_population_leaves_out_people_without_rows() -> None:
    people = make_people()
    counts = torch.tensor([3, 0, 3, 3, 0, 3])
    people.freeze_population(counts)
    torch.testing.assert_close(people.mean, people.all()[counts > 0].mean(0))
    own = people.support[: len(people.support) - 7]  # three corners, three middles, the centre
    assert sorted(own.tolist()) == sorted(people.all()[counts > 0].tolist())


def test_people_of_few_rows_stand_back_from_the_prior() -> None:
    people = make_people()
    people.freeze_population(torch.tensor([9, 9, 9, 9, 1, 1]))
    own = people.support[:-7]
    assert sorted(own.tolist()) == sorted(people.all()[:4].tolist())


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (5, 2), (1000, 4), (2, 15)])
def test_prior_is_a_distribution_over_the_simplex(n: int, k: int) -> None:
    people = make_people(n, k)
    for _ in range(2):  # before and after the population is taken
        assert people.support.shape == (len(people.log_prior), k)
        torch.testing.assert_close(people.log_prior.exp().sum(), torch.tensor(1.0))
        torch.testing.assert_close(people.support.sum(1), torch.ones(len(people.support)))
        people.freeze_population(seed=1)
    assert len(people.support) <= MAX_SUPPORT + k + k * k


def test_the_draw_for_the_prior_has_a_seed() -> None:
    supports = []
    for seed in (0, 0, 1):
        people = make_people(1000, 2)
        people.freeze_population(seed=seed)
        supports.append(people.support)
    assert torch.equal(supports[0], supports[1])
    assert not torch.equal(supports[0], supports[2])


def test_sparse_gradients_touch_the_batch_alone() -> None:
    people = make_people(sparse=True)
    people.logits(torch.tensor([1, 3])).sum().backward()
    assert people.logits.weight.grad.is_sparse
    assert people.logits.weight.grad.coalesce().indices().tolist() == [[1, 3]]
    people.append(torch.tensor([[0.2, 0.5, 0.3]]))
    assert people.logits.sparse
