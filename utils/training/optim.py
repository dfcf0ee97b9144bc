"""The optimisers of stage 1 and their learning-rate schedule."""

import torch
from torch import nn


class RepeatedSGD(torch.optim.SGD):
    """SGD that steps a parameter group `steps` times an iteration, with the same gradient.

    The published code lists a tensor once per module that contains it, and old versions of torch stepped it as
    often: the steps follow one another, weight decay acts on the tensor as it then is, and they share one
    momentum buffer. A single step at a higher learning rate is something else.
    """

    def step(self, closure: None = None) -> None:
        groups = self.param_groups
        try:
            for k in range(max(group["steps"] for group in groups)):
                self.param_groups = [group for group in groups if group["steps"] > k]
                super().step()
        finally:
            self.param_groups = groups


def fused(network: nn.Module) -> dict[str, bool]:
    """One kernel for all tensors where torch has it; elsewhere torch's own choice."""
    device = next(network.parameters()).device
    return {"fused": True} if device.type in ("cuda", "cpu") else {}


def build_sgd(
    G: nn.Module, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, repeated: bool = True
) -> RepeatedSGD:
    """SGD for the segmentation network: `layer5` at 10 x lr, everything else that is trained at lr.

    With `repeated`, a tensor outside `layer5` is stepped once for each module that contains it (the stem's
    convolution 1, a block's 3, a shortcut's 4 times), as the published checkpoints were trained.
    """
    groups: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, parameter in G.named_parameters():
        if not parameter.requires_grad:
            continue
        head = name.startswith("layer5.")
        steps = name.count(".") if repeated and not head else 1  # a dot in the name is a module around it
        groups.setdefault((10 if head else 1, steps), []).append(parameter)
    optimizer = RepeatedSGD(
        [
            {"params": params, "lr": lr * factor, "lr_factor": factor, "steps": steps}
            for (factor, steps), params in sorted(groups.items())
        ],
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        **fused(G),
    )
    start_momentum(optimizer)
    return optimizer


def start_momentum(optimizer: torch.optim.SGD) -> None:
    """Momentum from zero, which is what the first step makes of it; torch's fused step leaves it as the memory was
    where fp16's scaling skips that step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def build_adam(D: nn.Module, lr: float) -> torch.optim.Adam:
    """Adam for the discriminator."""
    optimizer = torch.optim.Adam(D.parameters(), lr=lr, betas=(0.9, 0.99), **fused(D))
    optimizer.param_groups[0]["lr_factor"] = 1
    return optimizer


def poly_lr(base: float, i: int, num_steps: int, power: float = 0.9) -> float:
    """base * (1 - i / num_steps) ^ power."""
    return base * (1 - i / num_steps) ** power


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, its factor applied."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
