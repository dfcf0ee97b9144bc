"""Stage 1's iteration as straightforward research code writes it: what `train_step.py` compares with.

The same numbers as utils/iteration.py, and no sleeps: every forward keeps its gradient graph, everything is
float32, the head computes its convolutions one by one, IoUs, masks and one-hot labels are made by numpy on the host,
image by image, and every loss is fetched for the log as soon as it is there.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.deeplab import ASPP
from utils.alignment import CutMix, cutmix_box
from utils.denoising import noise_threshold
from utils.iteration import Batches, Method


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


class PlainASPP(ASPP):
    def forward(self, x: Tensor) -> Tensor:
        return sum(conv(x) for conv in self.conv2d_list)


def bce_loss(pred: Tensor, domain: int, ignore_mask: np.ndarray | None = None) -> Tensor:
    """Binary cross-entropy over the pixels outside B x H x W `ignore_mask`."""
    pred = pred.squeeze(1)
    target = torch.full(pred.shape, float(domain)).to(pred.device)
    if ignore_mask is None:
        return F.binary_cross_entropy_with_logits(pred, target)
    valid = torch.from_numpy(~ignore_mask).to(pred.device)
    if not valid.any():
        return pred.sum() * 0
    return F.binary_cross_entropy_with_logits(pred[valid], target[valid])


def one_hot(labels: np.ndarray, num_classes: int) -> Tensor:
    """B x H x W labels -> B x num_classes x H x W, zero where ignored."""
    result = np.zeros((len(labels), num_classes, *labels.shape[1:]), np.float32)
    for c in range(num_classes):
        result[:, c] = labels == c
    return torch.from_numpy(result)


def clean_images(pred: Tensor, labels: Tensor, classes: Tensor, method: Method) -> list[int]:
    """ONF: the images of the batch whose foreground agrees with their label's."""
    ious, thresholds = [], []
    for k in range(len(pred)):
        predicted = pred[k].argmax(0).cpu().numpy() != 0
        label = labels[k].cpu().numpy()
        labelled = (label > 0) & (label != method.ignore_label)
        union = (predicted | labelled).mean() + 1e-4
        ious.append((predicted & labelled).mean() / union)
        thresholds.append(method.iou_thresholds[classes[k]].item())
    for factor in (1, 0.5):
        keep = [k for k, iou in enumerate(ious) if iou > thresholds[k] * factor]
        if keep:
            return keep
    return list(range(len(pred)))


def noisy_pixels(loss: Tensor, labels: Tensor, threshold: float, exempt: list[int]) -> Tensor:
    """PND: the pixels whose loss is too high for their label to be right."""
    masks = []
    for k in range(len(loss)):
        mask = loss[k].detach().cpu().numpy() > threshold
        label = labels[k].cpu().numpy()
        for c in exempt:
            mask[label == c] = False
        masks.append(torch.from_numpy(mask))
    return torch.stack(masks).to(loss.device)


class PlainIteration:
    """Takes the place of utils.iteration.Iteration; returns the losses as numbers."""

    def __init__(self, G: nn.Module, D: nn.Module, method: Method) -> None:
        self.G, self.D, self.method = G, D, method

    def __call__(self, i: int, batches: Batches, mix: CutMix | None = None) -> dict[str, float]:
        G, D, method, losses = self.G, self.D, self.method, {}
        denoise = i >= method.denoise_from
        num_classes, size = len(method.iou_thresholds) + 1, batches.complex.shape[2:]

        for parameter in D.parameters():
            parameter.requires_grad = False
        # complex images: fool D
        pred_complex = upsample(G(batches.complex), size)
        loss = bce_loss(upsample(D(F.softmax(pred_complex, dim=1)), size), 1)
        losses["loss_adv_complex"] = loss.item()
        (method.lambda_adv * loss).backward()

        # classification
        images, targets = batches.cls
        scores = G(images).mean(dim=(2, 3))[:, 1:]
        loss = F.multilabel_soft_margin_loss(scores, targets)
        losses["loss_cls"] = loss.item()
        loss.backward()

        # simple images: ONF, CutMix, PND
        images, labels, classes = batches.simple
        pred = upsample(G(images), size)
        if denoise:
            keep = clean_images(pred, labels, classes, method)
            images, labels, pred = (torch.stack([x[k] for k in keep]) for x in (images, labels, pred))
        ignored = labels.cpu().numpy() == method.ignore_label
        if mix is not None:
            images_mix, labels_mix = self.cutmix(images, labels, mix)
            loss = self.segmentation_loss(i, upsample(G(images_mix), size), labels_mix)
            losses["loss_seg"] = loss.item()
        else:
            loss = self.segmentation_loss(i, pred, labels)
            losses["loss_seg"] = loss.item()
            loss_adv = bce_loss(upsample(D(F.softmax(pred, dim=1)), size), 1, ignored)
            losses["loss_adv_simple"] = loss_adv.item()
            loss = loss + method.lambda_adv * loss_adv
        loss.backward()

        # discriminator
        for parameter in D.parameters():
            parameter.requires_grad = True
        preds = torch.cat([pred.detach(), pred_complex.detach()])
        nothing = np.zeros((len(pred_complex), *size), bool)
        output = upsample(D(F.softmax(preds, dim=1)), size)
        loss = bce_loss(output, 0, np.concatenate([ignored, nothing])) / 2
        losses["loss_D_pred"] = loss.item()
        loss.backward()
        images_gt, labels_gt, classes_gt = batches.gt
        if denoise:
            keep = clean_images(upsample(G(images_gt), size), labels_gt, classes_gt, method)
            labels_gt = torch.stack([labels_gt[k] for k in keep])
        labels_gt = labels_gt.cpu().numpy()
        output = upsample(D(one_hot(labels_gt, num_classes).to(images_gt.device)), size)
        loss = bce_loss(output, 1, labels_gt == method.ignore_label) / 2
        losses["loss_D_gt"] = loss.item()
        loss.backward()
        losses["loss_D"] = losses["loss_D_pred"] + losses["loss_D_gt"]
        return losses

    def segmentation_loss(self, i: int, pred: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy over the labelled pixels; with PND, noisy ones count as zero."""
        m = self.method
        loss = F.cross_entropy(pred, labels.long(), ignore_index=m.ignore_label, reduction="none")
        labelled = (labels.cpu().numpy() != m.ignore_label).sum()
        threshold = noise_threshold(i, m.denoise_from, m.denoise_until, m.high_T, m.low_T)
        if threshold is not None:
            loss = loss * (~noisy_pixels(loss, labels, threshold, m.exempt.tolist())).float()
        return loss.sum() / max(1, int(labelled))

    def cutmix(self, images: Tensor, labels: Tensor, mix: CutMix) -> tuple[Tensor, Tensor]:
        """Paste a box of another image of the batch into each."""
        x1, y1, x2, y2 = cutmix_box(images.shape[2:], mix.lam, mix.cx, mix.cy)
        order = [p for p in mix.permutation if p < len(images)]
        images_mix, labels_mix = images.clone(), labels.clone()
        for k, source in enumerate(order):
            images_mix[k, :, x1:x2, y1:y2] = images[source, :, x1:x2, y1:y2]
            labels_mix[k, x1:x2, y1:y2] = labels[source, x1:x2, y1:y2]
        return images_mix, labels_mix
