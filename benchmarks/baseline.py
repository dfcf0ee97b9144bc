"""Stage 1's iteration as straightforward research code writes it: the baseline of bench.py.

It computes the same numbers as utils/iteration.py. Every forward pass builds a graph, everything is float32, and the
head computes its convolutions one by one. IoUs, masks and one-hot labels are computed by numpy on the host, image by
image, and every loss is copied to the host immediately.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.deeplab import ASPP

Labelled = tuple[Tensor, Tensor, Tensor]  # images B x 3 x H x W, labels B x H x W, B 0-based classes
Batches = tuple[Tensor, tuple[Tensor, Tensor], Labelled, Labelled]  # complex, classification, simple, gt
Mix = tuple[tuple[int, int, int, int], tuple[int, ...]]  # CutMix: box (x1, y1, x2, y2) and permutation


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


class PlainASPP(ASPP):
    def forward(self, x: Tensor) -> Tensor:
        return sum(conv(x) for conv in self.conv2d_list)


def bce_loss(pred: Tensor, domain: int, ignore_mask: np.ndarray | None = None) -> Tensor:
    """Binary cross-entropy over the pixels that B x H x W `ignore_mask` leaves."""
    pred = pred.squeeze(1)
    target = torch.full(pred.shape, float(domain)).to(pred.device)
    if ignore_mask is None:
        return F.binary_cross_entropy_with_logits(pred, target)
    valid = torch.from_numpy(~ignore_mask).to(pred.device)
    if not valid.any():
        return pred.sum() * 0
    return F.binary_cross_entropy_with_logits(pred[valid], target[valid])


def one_hot(labels: np.ndarray, num_classes: int) -> Tensor:
    """B x H x W labels -> B x num_classes x H x W, zero at ignored pixels."""
    result = np.zeros((len(labels), num_classes, *labels.shape[1:]), np.float32)
    for c in range(num_classes):
        result[:, c] = labels == c
    return torch.from_numpy(result)


def noisy_pixels(loss: Tensor, labels: Tensor, threshold: float, exempt: list[int]) -> Tensor:
    """PND: the pixels whose loss exceeds the threshold, except those with an exempt label."""
    masks = []
    for k in range(len(loss)):
        mask = loss[k].detach().cpu().numpy() > threshold
        label = labels[k].cpu().numpy()
        for c in exempt:
            mask[label == c] = False
        masks.append(torch.from_numpy(mask))
    return torch.stack(masks).to(loss.device)


def cutmix(images: Tensor, labels: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """Pastes a box of another image of the batch into each image."""
    (x1, y1, x2, y2), permutation = mix
    order = [p for p in permutation if p < len(images)]
    images_mix, labels_mix = images.clone(), labels.clone()
    for k, source in enumerate(order):
        images_mix[k, :, x1:x2, y1:y2] = images[source, :, x1:x2, y1:y2]
        labels_mix[k, x1:x2, y1:y2] = labels[source, x1:x2, y1:y2]
    return images_mix, labels_mix


@dataclass
class PlainIteration:
    """Replaces utils.iteration.Iteration; the losses are numbers."""

    G: nn.Module
    D: nn.Module
    iou_thresholds: Tensor  # T_class, one per foreground class
    exempt: Tensor  # labels that PND never drops
    noise_threshold: Callable[[int], float | None]  # T(i); None before denoising starts
    lambda_adv: float
    ignore_label: int

    def __call__(self, i: int, batches: Batches, mix: Mix | None = None) -> dict[str, float]:
        G, D, losses = self.G, self.D, {}
        (images_complex, cls, simple, gt), threshold = batches, self.noise_threshold(i)
        size = images_complex.shape[2:]

        for parameter in D.parameters():
            parameter.requires_grad = False
        # complex images: adversarial loss
        pred_complex = upsample(G(images_complex), size)
        loss = bce_loss(upsample(D(F.softmax(pred_complex, dim=1)), size), 1)
        losses["loss_adv_complex"] = loss.item()
        (self.lambda_adv * loss).backward()

        # classification
        images, targets = cls
        scores = G(images).mean(dim=(2, 3))[:, 1:]
        loss = F.multilabel_soft_margin_loss(scores, targets)
        losses["loss_cls"] = loss.item()
        loss.backward()

        # simple images: ONF, CutMix, PND
        images, labels, classes = simple
        pred = upsample(G(images), size)
        if threshold is not None:
            keep = self.clean_images(pred, labels, classes)
            images, labels, pred = (torch.stack([x[k] for k in keep]) for x in (images, labels, pred))
        ignored = labels.cpu().numpy() == self.ignore_label
        if mix is not None:
            images_mix, labels_mix = cutmix(images, labels, mix)
            loss = self.segmentation_loss(upsample(G(images_mix), size), labels_mix, threshold)
            losses["loss_seg"] = loss.item()
        else:
            loss = self.segmentation_loss(pred, labels, threshold)
            losses["loss_seg"] = loss.item()
            loss_adv = bce_loss(upsample(D(F.softmax(pred, dim=1)), size), 1, ignored)
            losses["loss_adv_simple"] = loss_adv.item()
            loss = loss + self.lambda_adv * loss_adv
        loss.backward()

        for parameter in D.parameters():
            parameter.requires_grad = True
        nothing = np.zeros((len(pred_complex), *size), bool)
        preds = torch.cat([pred.detach(), pred_complex.detach()])
        ignored = np.concatenate([ignored, nothing])
        return losses | self.discriminator_losses(preds, ignored, gt, threshold is not None)

    def discriminator_losses(
        self, preds: Tensor, ignored: np.ndarray, gt: Labelled, denoise: bool
    ) -> dict[str, float]:
        """D should tell predictions (0) from labels (1)."""
        size, losses = preds.shape[2:], {}
        output = upsample(self.D(F.softmax(preds, dim=1)), size)
        loss = bce_loss(output, 0, ignored) / 2
        losses["loss_D_pred"] = loss.item()
        loss.backward()
        images, labels, classes = gt
        if denoise:
            keep = self.clean_images(upsample(self.G(images), size), labels, classes)
            labels = torch.stack([labels[k] for k in keep])
        label_maps = labels.cpu().numpy()
        output = upsample(self.D(one_hot(label_maps, preds.shape[1]).to(images.device)), size)
        loss = bce_loss(output, 1, label_maps == self.ignore_label) / 2
        losses["loss_D_gt"] = loss.item()
        loss.backward()
        losses["loss_D"] = losses["loss_D_pred"] + losses["loss_D_gt"]
        return losses

    def clean_images(self, pred: Tensor, labels: Tensor, classes: Tensor) -> list[int]:
        """ONF: the images whose predicted foreground agrees with that of the label."""
        ious, thresholds = [], []
        for k in range(len(pred)):
            predicted = pred[k].argmax(0).cpu().numpy() != 0
            label = labels[k].cpu().numpy()
            labelled = (label > 0) & (label != self.ignore_label)
            union = (predicted | labelled).mean() + 1e-4
            ious.append((predicted & labelled).mean() / union)
            thresholds.append(self.iou_thresholds[classes[k]].item())
        for factor in (1, 0.5):
            keep = [k for k, iou in enumerate(ious) if iou > thresholds[k] * factor]
            if keep:
                return keep
        return list(range(len(pred)))

    def segmentation_loss(self, pred: Tensor, labels: Tensor, threshold: float | None) -> Tensor:
        """Mean cross-entropy of the labelled pixels; PND sets that of noisy pixels to zero."""
        loss = F.cross_entropy(pred, labels.long(), ignore_index=self.ignore_label, reduction="none")
        labelled = (labels.cpu().numpy() != self.ignore_label).sum()
        if threshold is not None:
            loss = loss * (~noisy_pixels(loss, labels, threshold, self.exempt.tolist())).float()
        return loss.sum() / max(1, int(labelled))
