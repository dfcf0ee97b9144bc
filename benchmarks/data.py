"""Synthetic images, data sets and probabilities for the benchmarks."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate, one_hot

from datasets.labels import save_labels
from datasets.lists import Entry
from networks.checkpoint import save
from networks.deeplab import build_deeplab

Size = tuple[int, int]  # height, width


def make_image(rng: np.random.Generator, size: Size) -> np.ndarray:
    """H x W x 3 uint8: textured ellipses and boxes on a textured background, with blur and sensor noise."""
    height, width = size
    image: np.ndarray = np.zeros((height, width, 3), np.float32)
    for k in range(12):
        mask = np.zeros((height, width), np.uint8)
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = int(rng.integers(10, max(11, width // 4))), int(rng.integers(10, max(11, height // 4)))
        if k == 0:
            mask[:] = 1
        elif k % 3:
            cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        else:
            cv2.rectangle(mask, centre, (centre[0] + axes[0], centre[1] + axes[1]), 1, -1)
        coarse, fine = rng.normal(0, 25, (5, 6, 3)), rng.normal(0, 15, (height // 8, width // 8, 3))
        texture = sum(cv2.resize(t, (width, height), interpolation=cv2.INTER_CUBIC) for t in (coarse, fine))
        image = np.where(mask[..., None] == 1, rng.uniform(20, 235, 3) + texture, image)
    image = cv2.GaussianBlur(image, (0, 0), 0.8) + rng.normal(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def make_data(root: Path, sizes: Sequence[Size], num_classes: int = 21) -> list[Entry]:
    """Writes JPEGs of the given sizes and labels with one object each; returns their list entries."""
    entries = []
    (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
    for k, (height, width) in enumerate(sizes):
        rng, name = np.random.default_rng(k), f"image_{k:05}"
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), make_image(rng, (height, width)))
        c, label = int(rng.integers(num_classes - 1)), np.zeros((height, width), np.uint8)
        centre = int(rng.integers(width // 4, width)), int(rng.integers(height // 4, height))
        cv2.ellipse(label, centre, (width // 4, height // 3), float(rng.uniform(0, 180)), 0, 360, c + 1, -1)
        border = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        save_labels(root / "labels" / f"{name}.png", np.where(border, 255, label))
        entries.append(Entry(name, (c,)))
    return entries


def make_evaluation(root: Path, arch: str, sizes: Sequence[Size], num_classes: int = 21) -> list[str]:
    """Writes images, labels, a list and random weights; returns the options of evaluate.py for them."""
    entries = make_data(root, sizes, num_classes)
    (root / "list.txt").write_text("".join(f"{entry.id}\n" for entry in entries))
    save(build_deeplab(arch, num_classes, seed=0).state_dict(), root / "weights.pth")
    paths = {
        "--data-dir": root,
        "--label-dir": root / "labels",
        "--data-list": root / "list.txt",
        "--restore-from": root / "weights.pth",
    }
    return [f"{option}={path}" for option, path in paths.items()]


def output_options(out: Path) -> list[str]:
    """The options of evaluate.py for results below `out`."""
    return [f"--logit-dir={out}/logits", f"--score-dir={out}/scores", f"--save-predictions={out}/png"]


def make_probabilities(rng: np.random.Generator, classes: int, size: Size, favour: float) -> torch.Tensor:
    """C x H x W: softmax of upsampled random logits, raised by `favour` for the background and two classes."""
    logits = rng.normal(0, 2, (1, classes, 12, 16)).astype(np.float32)
    logits[:, [0, *rng.choice(np.arange(1, classes), min(2, classes - 1), replace=False)]] += favour
    return interpolate(torch.from_numpy(logits), size, mode="bilinear", align_corners=True).softmax(1)[0]


def soften_mask(rng: np.random.Generator, mask: np.ndarray, classes: int) -> torch.Tensor:
    """C x H x W: probabilities as those of a trained network, made from an H x W mask of labels below `classes`.

    An eighth of the size, margins of about 9 between the logits inside objects, borders blurred over 9 pixels, noise
    of low and of high frequency, three classes that are confused with the objects, others that are unlikely.
    """
    height, width = mask.shape
    size = height // 8 + 1, width // 8 + 1

    def noise(channels: int, *shape: int) -> torch.Tensor:
        values = torch.from_numpy(rng.normal(0, 1, (1, channels, *shape)).astype(np.float32))
        return interpolate(values, size, mode="bilinear", align_corners=True)

    labels = one_hot(torch.from_numpy(mask.astype(np.int64)), classes).permute(2, 0, 1)[None].float()
    soft = interpolate(avg_pool2d(labels, 9, 1, 4), size, mode="bilinear", align_corners=True)
    absent = 1 - labels.amax((2, 3), keepdim=True)
    logits = 9 * soft + 0.9 * noise(classes, 6, 8) + 0.3 * noise(classes, *size)
    logits -= absent * torch.from_numpy(rng.uniform(0, 2.5, (1, classes, 1, 1)).astype(np.float32))
    logits[:, 0] += 1
    confused = rng.choice(np.arange(1, classes), min(3, classes - 1), replace=False)
    logits[:, confused] += (1 - soft[:, :1]) * (2 + 2 * noise(len(confused), 5, 6))
    return interpolate(logits, (height, width), mode="bilinear", align_corners=True)[0].softmax(0)
