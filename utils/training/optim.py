"""The optimizers of stage 1 and their learning rate schedule."""

import torch
from torch import nn


class RepeatedSGD(torch.optim.SGD):
    """SGD that steps each parameter group `steps` times per iteration, with the same gradient.

    The published code lists a tensor once per module that contains it, and former versions of torch stepped it as
    many times: one full step after the other, each with weight decay on the current value, with one shared momentum
    buffer. This differs from a single step at a higher learning rate.
    """

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closures
        groups = self.param_groups
        try:
            for k in range(max(group["steps"] for group in groups)):
                self.param_groups = [group for group in groups if group["steps"] > k]
                super().step()
        finally:
            self.param_groups = groups


def fused(network: nn.Module) -> dict[str, bool]:
    """The fused implementation where torch has one; otherwise torch's default."""
    return {"fused": True} if next(network.parameters()).device.type in ("cuda", "cpu") else {}


def build_sgd(
    G: nn.Module, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4, repeated: bool = True
) -> RepeatedSGD:
    """SGD for the segmentation network: `layer5` at 10 x lr, all other trained parameters at lr.

    With `repeated`, a tensor of a ResNet steps once per module that contains it, as the published checkpoints were
    trained: the stem once, the convolutions of blocks 3 times, those of shortcuts 4 times. The head and MobileNetV2
    (`features`) step once.
    """
    groups: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, parameter in G.named_parameters():
        if not parameter.requires_grad:
            continue
        head, resnet = name.startswith("layer5."), not name.startswith(("layer5.", "features."))
        steps = name.count(".") if repeated and resnet else 1  # a dot in the name is a module around it
        groups.setdefault((10 if head else 1, steps), []).append(parameter)
    listed = [
        {"params": params, "lr": lr * factor, "lr_factor": factor, "steps": steps}
        for (factor, steps), params in sorted(groups.items())
    ]
    optimizer = RepeatedSGD(listed, lr=lr, momentum=momentum, weight_decay=weight_decay, **fused(G))
    start_momentum(optimizer)
    return optimizer


def start_momentum(optimizer: torch.optim.SGD) -> None:
    """Set the momentum buffers to zero.

    Otherwise the fused step leaves them uninitialized if the loss scaling of fp16 skips the first step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def build_adam(D: nn.Module, lr: float) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(D.parameters(), lr=lr, betas=(0.9, 0.99), **fused(D))
    optimizer.param_groups[0]["lr_factor"] = 1
    return optimizer


def poly_lr(base: float, i: int, num_steps: int, power: float = 0.9) -> float:
    """base * (1 - i / num_steps) ^ power."""
    return base * (1 - i / num_steps) ** power


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
