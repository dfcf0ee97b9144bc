"""The optimizer and the learning rate schedule of stage 2."""

import torch
from torch import Tensor, nn

from utils.training.optim import fused, poly_lr, start_momentum


def build_sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD: backbone convolutions at lr, weights of the head at 10 x lr, its biases at 20 x lr without weight decay.

    The scale and shift of batch normalization are not trained.
    """
    backbone: list[Tensor] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            head = ".aspp." in f".{name}." or name.endswith("fc")
            (weights if head else backbone).append(module.weight)
            if module.bias is not None:
                biases.append(module.bias)
    groups = [
        {"params": backbone, "lr_factor": 1, "weight_decay": weight_decay},
        {"params": weights, "lr_factor": 10, "weight_decay": weight_decay},
        {"params": biases, "lr_factor": 20, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, **fused(model))
    start_momentum(optimizer)
    return optimizer


def lr_after(iteration: int, base: float, iter_max: int, power: float, every: int) -> float:
    """Learning rate after `iteration` iterations: the poly schedule, updated every `every` iterations."""
    return poly_lr(base, iteration // every * every, iter_max, power)
