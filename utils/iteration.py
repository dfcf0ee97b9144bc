"""One training iteration of stage 1, as in Figure 2 of the paper: complex, classification, simple, discriminator."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.voc import IGNORE_LABEL
from networks.batch_norm import LateStatistics
from networks.resize import resize
from utils.alignment import CutMix, cutmix, domain_loss, one_hot
from utils.core.device import HostCopy, Precision, send
from utils.core.distributed import no_sync, unwrap, world_size
from utils.denoising import foreground_iou, noise_threshold, online_noise_filter, segmentation_loss


@dataclass(frozen=True)
class Method:
    """The constants and the switches of the method; the defaults are those of the published run on VOC."""

    iou_thresholds: Tensor  # T_class of ONF, one per foreground class
    exempt: Tensor  # labels that PND never drops
    denoise_from: int = 1000  # first iteration of ONF and PND
    denoise_until: int = 11000  # iteration at which T(i) of PND reaches low_T
    high_T: float = 1.2
    low_T: float = 0.8
    cutmix_probability: float = 0.5
    c2s_from: int = 0  # first iteration of C2S
    lambda_adv: float = 0.001
    ignore_label: int = IGNORE_LABEL
    onf: bool = True
    pnd: bool = True
    s2c: bool = True
    c2s: bool = True
    cls: bool = True

    def T(self, i: int) -> float | None:
        """T(i) of PND; None during the warm-up and without PND."""
        schedule = self.denoise_from, self.denoise_until, self.high_T, self.low_T
        return noise_threshold(i, *schedule) if self.pnd else None


@dataclass
class Batches:
    """The four batches of an iteration, on the networks' device; images are B x 3 x H x W, labels B x H x W.

    Those that the method does not use are None: `complex` and `gt` without C2S, `cls` without classification.
    """

    complex: Tensor  # images
    cls: tuple[Tensor, Tensor]  # images, B x (C - 1) of 0 and 1
    simple: tuple[Tensor, Tensor, Tensor]  # images, labels, B 0-based classes
    gt: tuple[Tensor, Tensor, Tensor]  # images, labels, classes


@dataclass
class Figures:
    """What an iteration computed: unweighted losses and what the denoising did; None where it did not take place.

    The mean of a scalar over the processes is the value of the whole batch.
    """

    loss_adv_complex: Tensor | None = None
    loss_cls: Tensor | None = None
    iou_simple: Tensor | None = None  # B: foreground IoU of prediction and label
    keep_simple: Tensor | None = None  # B booleans: ONF's decision
    passed: Tensor | None = None  # images above their class's threshold
    kept: Tensor | None = None  # images that ONF kept
    dropped: Tensor | None = None  # share of the labelled pixels that PND dropped
    foreground: Tensor | None = None  # share of the pixels that are predicted as foreground
    loss_seg: Tensor | None = None
    loss_adv_simple: Tensor | None = None
    loss_D_pred: Tensor | None = None  # half of the loss on predictions
    iou_gt: Tensor | None = None
    keep_gt: Tensor | None = None
    loss_D_gt: Tensor | None = None  # half of the loss on label maps
    loss_D: Tensor | None = None

    def tensors(self) -> Mapping[str, Tensor]:
        """What was computed, by name, without gradient."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.detach() for name, value in values.items() if value is not None}


class Iteration:
    """Adds the gradients of one iteration to those of G and D; the caller steps both optimizers.

        L_G = L_cls + L_seg + lambda_adv * L_adv
        L_D = BCE(D(p), 0) / 2 + BCE(D(y), 1) / 2

    Each term is backpropagated as soon as it is known, so that one graph is held in memory at a time.
    """

    def __init__(
        self, G: nn.Module, D: nn.Module | None, method: Method, precision: Precision | None = None
    ) -> None:
        """Args: G, D: the networks, possibly wrapped by DistributedDataParallel or compiled; D only for C2S."""
        self.G, self.D, self.method = G, cast(nn.Module, D), method
        self.precision = precision or Precision()

    def __call__(
        self,
        i: int,
        batches: Batches,
        mix: CutMix | None = None,
        loss_scale: float = 1.0,
        sync_gradients: bool = True,
    ) -> Figures:
        """Run iteration i.

        Args:
            mix: a draw of CutMix; None: no S2C in this iteration.
            loss_scale: factor of every loss; 1 / n where the gradients of n calls make one step.
            sync_gradients: all-reduce the gradients of this and the calls before it; False: a later call does.
        """
        m, r = self.method, Figures()
        denoise, c2s = i >= m.denoise_from, m.c2s and i >= m.c2s_from
        images, labels, classes = batches.simple

        def backward(loss: Tensor) -> None:
            self.precision.backward(loss * loss_scale)

        # With S2C, paragraph 3 mixes and forwards the images that ONF keeps. ONF decides here, so that its decision
        # has reached the host by then; the running statistics are updated as if this forward pass took place there.
        if early := mix is not None and m.onf and denoise:
            with self.late_statistics.postponed():
                p_s = self.predict_only(images)
            r.iou_simple, r.passed, r.keep_simple = self.filter_images(p_s, labels, classes)
            decision = HostCopy(r.keep_simple)

        with no_sync(self.G):  # paragraph 3 all-reduces the gradients of all three
            # 1. Complex images, C2S:  L_adv = BCE(D(p_c), 1), with D frozen.
            if c2s:
                p_c = self.predict(batches.complex)
                r.loss_adv_complex = self.adversarial_loss(p_c)
                backward(m.lambda_adv * r.loss_adv_complex)

            # 2. All images:  L_cls = soft-margin loss of the mean logits, background left out, with the image labels.
            if m.cls:
                images_cls, present = batches.cls
                scores = self.precision.forward(self.G, images_cls).mean((2, 3))[:, 1:]
                r.loss_cls = F.multilabel_soft_margin_loss(scores, present)
                backward(r.loss_cls)

        # 3. Simple images.  ONF: keep an image if IoU(F_p, F_l) > T_class.  S2C: x, y = CutMix(x, y).
        #    PND:  L_seg = mean over labelled pixels of l * [l <= T(i)], l the cross-entropy of a pixel.
        with no_sync(self.G, not sync_gradients):
            r.kept = torch.full((), float(len(images) * world_size()), device=labels.device)
            if mix is None:
                p = p_s = self.predict(images)
                if m.onf and denoise:
                    r.iou_simple, r.passed, r.keep_simple = self.filter_images(p_s, labels, classes)
                    labels = self.ignore_dropped(r.keep_simple, labels)
                y = labels
            else:
                if early:
                    self.late_statistics.update()
                    images, labels, p_s = self.keep_images(decision.wait(), images, labels, p_s)
                elif c2s:
                    p_s = self.predict_only(images)
                images_mix, y = cutmix(images, labels, mix)
                p = self.predict(images_mix)
            if r.keep_simple is not None:
                r.kept = r.keep_simple.sum().float() * world_size()
            r.loss_seg, r.dropped = segmentation_loss(p, y, m.T(i), m.exempt, m.ignore_label)
            r.foreground = (p.detach().argmax(1) != 0).float().mean()
            if mix is None and c2s:  # L_adv = BCE(D(p_s), 1)
                r.loss_adv_simple = self.adversarial_loss(p_s, labels == m.ignore_label)
                backward(r.loss_seg + m.lambda_adv * r.loss_adv_simple)
            else:
                backward(r.loss_seg)

        # 4. Discriminator, C2S:  L_D = BCE(D([p_s, p_c]), 0) / 2 + BCE(D(onehot(y)), 1) / 2, predictions detached.
        if c2s:
            with no_sync(self.D, not sync_gradients):
                predictions = torch.cat([p_s.detach(), p_c.detach()]).softmax(1)
                ignored = torch.cat([labels == m.ignore_label, torch.zeros_like(p_c[:, 0], dtype=torch.bool)])
                r.loss_D_pred = domain_loss(self.discriminate(self.D, predictions), 0, ignored) / 2
                images, labels, classes = batches.gt
                if m.onf and denoise:
                    r.iou_gt, _, r.keep_gt = self.filter_images(self.predict_only(images), labels, classes)
                    labels = self.ignore_dropped(r.keep_gt, labels)
                label_maps = one_hot(labels, predictions.shape[1], m.ignore_label)
                on_labels = self.discriminate(self.D, label_maps)
                r.loss_D_gt = domain_loss(on_labels, 1, labels == m.ignore_label) / 2
                r.loss_D = r.loss_D_pred + r.loss_D_gt
                backward(r.loss_D)
        return r

    def predict(self, images: Tensor) -> Tensor:
        """Logits of G in float32, resized to the images."""
        return resize(self.precision.forward(self.G, images), images.shape[2:])

    @torch.no_grad()
    def predict_only(self, images: Tensor) -> Tensor:
        """As `predict`, without gradient."""
        return self.predict(images)

    def discriminate(self, D: nn.Module, maps: Tensor) -> Tensor:
        """Logits of D in float32, resized to its input maps."""
        return resize(self.precision.forward(D, maps), maps.shape[2:])

    def adversarial_loss(self, p: Tensor, ignored: Tensor | None = None) -> Tensor:
        """BCE(D(softmax p), 1) with D frozen: its parameters get no gradient, and nothing is all-reduced."""
        D = unwrap(self.D)
        D.requires_grad_(False)
        loss = domain_loss(self.discriminate(D, p.softmax(1)), 1, ignored)
        D.requires_grad_(True)
        return loss

    def filter_images(self, p: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ONF: B foreground IoUs, the number of images above their threshold, and B booleans: which to keep."""
        iou = foreground_iou(p.detach(), labels, self.method.ignore_label)
        thresholds = self.method.iou_thresholds[classes]
        passed = (iou > thresholds).sum().float() * world_size()
        return iou, passed, online_noise_filter(iou, thresholds)

    def ignore_dropped(self, keep: Tensor, labels: Tensor) -> Tensor:
        """The labels, every pixel of a dropped image ignored: this drops it without waiting for the device."""
        return labels.masked_fill(~keep[:, None, None], self.method.ignore_label)

    def keep_images(
        self, keep: Tensor, images: Tensor, labels: Tensor, p: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and predictions that ONF keeps; `keep` is on the host.

        If the kept images are all in other processes, one image takes part with every pixel ignored.
        """
        index = keep.nonzero()[:, 0]
        if not len(index):
            index, labels = index.new_zeros(1), torch.full_like(labels, self.method.ignore_label)
        index = send(index, images.device)
        return images[index], labels[index], p[index]

    @functools.cached_property
    def late_statistics(self) -> LateStatistics:
        return LateStatistics(unwrap(self.G))
