"""`torch.optim.LBFGS`, made without torch's compiler."""

import torch

__all__ = ["PlainLBFGS"]


class PlainLBFGS(torch.optim.LBFGS):
    """The optimizer itself. `Optimizer` hides the method that takes its parameters from the compiler, for which it
    imports all of `torch._dynamo`; here the method that lies beneath is called, since nothing of this is compiled.
    """

    def add_param_group(self, param_group: dict[str, object]) -> None:
        """As of `torch.optim.Optimizer`."""
        hidden = torch.optim.Optimizer.add_param_group
        getattr(hidden, "__wrapped__", hidden)(self, param_group)
