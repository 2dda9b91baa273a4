"""Steps without the classes of torch.optim are theirs to the bit, and leave torch's compiler alone."""

import subprocess
import sys
from pathlib import Path

import torch

from palign.functional.optimizers.adamw import AdamW, ParameterGroup
from palign.functional.optimizers.lbfgs import PlainLBFGS

ROOT = Path(__file__).parents[3]
BETAS = (0.9, 0.99)


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 5), (5,), (9, 3))
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def set_gradients(held: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(held):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if (number, step) == (1, 2) else gradient  # a parameter that a step leaves out


def test_steps_are_those_of_torch_to_the_bit() -> None:
    ours, theirs = parameters(), parameters()
    groups = [ParameterGroup(ours[:2], 0.05, 0.1), ParameterGroup(ours[2:], 0.2)]
    optimizer = AdamW(groups, betas=BETAS)
    reference = torch.optim.AdamW(
        [{"params": theirs[:2], "lr": 0.05, "weight_decay": 0.1},
         {"params": theirs[2:], "lr": 0.2, "weight_decay": 0.0}],
        betas=BETAS, fused=True,
    )  # fmt: skip
    for step in range(6):
        factor = 1 - step / 6
        for group, its, peak in zip(groups, reference.param_groups, (0.05, 0.2), strict=True):
            group.learning_rate = its["lr"] = peak * factor
        for held in (ours, theirs):
            set_gradients(held, step)
        optimizer.step()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(ours, parameters(), strict=True))
    optimizer.forget_gradients()
    assert all(parameter.grad is None for parameter in ours)


def test_lbfgs_is_torchs_own() -> None:
    found = []
    for kind in (PlainLBFGS, torch.optim.LBFGS):
        held = parameters()[0]
        optimizer = kind([held], max_iter=7, line_search_fn="strong_wolfe")

        def objective(held: torch.Tensor = held) -> torch.Tensor:
            held.grad = None
            loss = (held.square() - held.cos()).sum()
            loss.backward()
            return loss

        optimizer.step(objective)
        found.append(held.detach())
    assert torch.equal(*found) and not torch.equal(found[0], parameters()[0])


def test_no_step_imports_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from palign.functional.optimizers.adamw import AdamW, ParameterGroup\n"
        "from palign.functional.optimizers.lbfgs import PlainLBFGS\n"
        "held = torch.ones(3, requires_grad=True)\n"
        "held.square().sum().backward()\n"
        "optimizer = AdamW([ParameterGroup([held], 0.1)], betas=(0.9, 0.99))\n"
        "optimizer.step(), optimizer.forget_gradients()\n"
        "lbfgs = PlainLBFGS([held])\n"
        "def loss():\n    held.grad = None\n    value = held.square().sum()\n    value.backward()\n    return value\n"
        "lbfgs.step(loss)\n"
        "print('torch._dynamo' in sys.modules, held.abs().max().item() < 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout == "False True\n", done.stderr
