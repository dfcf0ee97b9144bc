"""Stage 1's iteration as straightforward research code writes it: the baseline of bench.py.

It computes the same numbers as utils/iteration.py. Every forward pass builds a graph, everything is float32, and the
head computes its convolutions one by one. IoUs, masks and one-hot labels are computed by numpy on the host, and every
loss is copied to the host immediately.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.deeplab import ASPP
from utils.alignment import CutMix, cutmix_box
from utils.iteration import Batches, Method


class PlainASPP(ASPP):
    def forward(self, x: Tensor) -> Tensor:
        return sum(conv(x) for conv in self.conv2d_list)


class PlainIteration:
    """Replaces utils.iteration.Iteration; the losses are numbers."""

    def __init__(self, G: nn.Module, D: nn.Module, method: Method) -> None:
        self.G, self.D, self.method = G, D, method

    def __call__(self, i: int, batches: Batches, mix: CutMix | None = None) -> dict[str, float]:
        G, D, m, losses = self.G, self.D, self.method, {}
        denoise = i >= m.denoise_from
        D.requires_grad_(False)

        # complex images: adversarial loss
        pred_complex = full_output(G, batches.complex)
        loss = bce_loss(full_output(D, pred_complex.softmax(1)), 1)
        losses["loss_adv_complex"] = loss.item()
        (m.lambda_adv * loss).backward()

        # classification
        images, present = batches.cls
        loss = F.multilabel_soft_margin_loss(G(images).mean((2, 3))[:, 1:], present)
        losses["loss_cls"] = loss.item()
        loss.backward()

        # simple images: ONF, CutMix, PND
        images, labels, classes = batches.simple
        pred = full_output(G, images)
        if denoise:
            keep = self.clean_images(pred, labels, classes)
            images, labels, pred = images[keep], labels[keep], pred[keep]
        ignored = labels.cpu().numpy() == m.ignore_label
        if mix is not None:
            images_mix, labels_mix = cutmix(images, labels, mix)
            loss = self.segmentation_loss(full_output(G, images_mix), labels_mix, m.T(i))
            losses["loss_seg"] = loss.item()
        else:
            loss = self.segmentation_loss(pred, labels, m.T(i))
            losses["loss_seg"] = loss.item()
            loss_adv = bce_loss(full_output(D, pred.softmax(1)), 1, ignored)
            losses["loss_adv_simple"] = loss_adv.item()
            loss = loss + m.lambda_adv * loss_adv
        loss.backward()

        # discriminator: predictions are 0, labels 1
        D.requires_grad_(True)
        preds = torch.cat([pred.detach(), pred_complex.detach()]).softmax(1)
        ignored = np.concatenate([ignored, np.zeros(pred_complex[:, 0].shape, bool)])
        loss = bce_loss(full_output(D, preds), 0, ignored) / 2
        losses["loss_D_pred"] = loss.item()
        loss.backward()
        images, labels, classes = batches.gt
        if denoise:
            labels = labels[self.clean_images(full_output(G, images), labels, classes)]
        label_maps = labels.cpu().numpy()
        one_hot = np.stack([label_maps == c for c in range(preds.shape[1])], axis=1).astype(np.float32)
        output = full_output(D, torch.from_numpy(one_hot).to(preds))
        loss = bce_loss(output, 1, label_maps == m.ignore_label) / 2
        losses["loss_D_gt"] = loss.item()
        loss.backward()
        losses["loss_D"] = losses["loss_D_pred"] + losses["loss_D_gt"]
        return losses

    def clean_images(self, pred: Tensor, labels: Tensor, classes: Tensor) -> list[int]:
        """ONF: the images whose predicted foreground agrees with that of the label."""
        ious, thresholds = [], self.method.iou_thresholds[classes].tolist()
        for k in range(len(pred)):
            predicted = pred[k].argmax(0).cpu().numpy() != 0
            label = labels[k].cpu().numpy()
            labelled = (label > 0) & (label != self.method.ignore_label)
            ious.append((predicted & labelled).mean() / ((predicted | labelled).mean() + 1e-4))
        for factor in (1, 0.5):
            keep = [k for k, iou in enumerate(ious) if iou > thresholds[k] * factor]
            if keep:
                return keep
        return list(range(len(pred)))

    def segmentation_loss(self, pred: Tensor, labels: Tensor, threshold: float | None) -> Tensor:
        """Mean cross-entropy of the labelled pixels; PND sets that of noisy pixels to zero."""
        ignore, label_maps = self.method.ignore_label, labels.cpu().numpy()
        loss = F.cross_entropy(pred, labels.long(), ignore_index=ignore, reduction="none")
        if threshold is not None:
            noisy = loss.detach().cpu().numpy() > threshold
            noisy[np.isin(label_maps, self.method.exempt.tolist())] = False
            loss = loss * torch.from_numpy(~noisy).to(loss.device)
        return loss.sum() / max(1, int((label_maps != ignore).sum()))


def full_output(network: nn.Module, x: Tensor) -> Tensor:
    return F.interpolate(network(x), size=x.shape[2:], mode="bilinear", align_corners=True)


def bce_loss(pred: Tensor, domain: int, ignored: np.ndarray | None = None) -> Tensor:
    """Binary cross-entropy over the pixels that are not ignored (B x H x W)."""
    pred = pred.squeeze(1)
    if ignored is not None:
        pred = pred[torch.from_numpy(~ignored).to(pred.device)]
    if not pred.numel():
        return pred.sum()
    return F.binary_cross_entropy_with_logits(pred, torch.full_like(pred, domain))


def cutmix(images: Tensor, labels: Tensor, mix: CutMix) -> tuple[Tensor, Tensor]:
    """Pastes a box of another image of the batch into each image."""
    x1, y1, x2, y2 = cutmix_box(images.shape[2:], mix.lam, mix.cx, mix.cy)
    images_mix, labels_mix = images.clone(), labels.clone()
    for k, source in enumerate(p for p in mix.permutation if p < len(images)):
        images_mix[k, :, x1:x2, y1:y2] = images[source, :, x1:x2, y1:y2]
        labels_mix[k, x1:x2, y1:y2] = labels[source, x1:x2, y1:y2]
    return images_mix, labels_mix
