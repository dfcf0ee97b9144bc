"""The discriminator D of C2S, which tells label maps from predictions."""

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Class probabilities B x num_classes x H x W -> one logit per patch, B x 1 x ~H/32 x ~W/32."""

    def __init__(self, num_classes: int = 21, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_classes, width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(width, width * 2, 4, stride=2, padding=1)
        self.conv3 = nn.Conv2d(width * 2, width * 4, 4, stride=2, padding=1)
        self.conv4 = nn.Conv2d(width * 4, width * 8, 4, stride=2, padding=1)
        self.classifier = nn.Conv2d(width * 8, 1, 4, stride=2, padding=1)
        self.leaky_relu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = self.leaky_relu(conv(x))
        return self.classifier(x)


def build_discriminator(num_classes: int = 21, width: int = 64, seed: int | None = None) -> Discriminator:
    """Build a discriminator; with `seed`, the initial weights do not depend on torch's global random state."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return Discriminator(num_classes, width)
