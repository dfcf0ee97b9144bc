"""The optimizer and the learning rate schedule of stage 2."""

import torch
from torch import nn

from utils.training.optim import fused, poly_lr, start_momentum


def build_sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """SGD: backbone convolutions at lr, weights of the head at 10 x lr, its biases at 20 x lr without weight decay.

    The scale and shift of batch normalization are not trained.
    """
    named = dict(model.named_parameters())
    backbone = [p for name, p in named.items() if ".layer5." not in name and p.ndim == 4]
    head = {name: p for name, p in named.items() if ".layer5." in name}
    weights = [p for name, p in head.items() if name.endswith("weight")]
    biases = [p for name, p in head.items() if name.endswith("bias")]
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
