"""One training iteration of stage 1, as in Figure 2 of the paper: complex, classification, simple, discriminator."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.voc import IGNORE_LABEL
from networks.resize import resize
from utils.alignment import CutMix, cutmix, domain_loss, one_hot
from utils.core.device import Precision
from utils.core.distributed import world_size
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


class Batches(SimpleNamespace):
    """The batches of an iteration, as far as the method uses them, on the networks' device.

    Images are B x 3 x H x W, labels B x H x W, classes B and 0-based.
    """

    complex: Tensor  # images; with C2S
    cls: tuple[Tensor, Tensor]  # images, B x (C - 1) of 0 and 1; with classification
    simple: tuple[Tensor, Tensor, Tensor]  # images, labels, classes
    gt: tuple[Tensor, Tensor, Tensor]  # images, labels, classes; with C2S


class Iteration:
    """Adds the gradients of one iteration to those of G and D; the caller steps both optimizers.

        L_G = L_cls + L_seg + lambda_adv * L_adv
        L_D = BCE(D(p), 0) / 2 + BCE(D(y), 1) / 2

    Each term is backpropagated as soon as it is known, so that one graph is held in memory at a time.
    """

    def __init__(self, G: nn.Module, D: nn.Module | None, method: Method, precision: Precision | None = None) -> None:
        """Args: G, D: the networks; D is None without C2S."""
        self.G, self.D, self.method = G, D, method
        self.precision = precision or Precision()

    def __call__(
        self, i: int, batches: Batches, mix: CutMix | None = None, loss_scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Run iteration i.

        Args:
            mix: a draw of CutMix; None: no S2C in this iteration.
            loss_scale: factor of every loss; 1 / n where the gradients of n calls make one step.

        Returns:
            What was computed, without gradient; the mean of a scalar over the processes is that of the whole batch.
            loss_*: unweighted losses; loss_D is loss_D_pred + loss_D_gt.
            iou_simple, keep_simple, iou_gt, keep_gt: the foreground IoU of each image, ONF's decision.
            passed, kept: numbers of simple images above the threshold of their class, and of those that ONF kept.
            dropped, foreground: shares of labelled pixels that PND dropped, of pixels predicted as foreground.
        """
        m, f = self.method, SimpleNamespace()
        D = self.D if m.c2s and i >= m.c2s_from else None
        onf = m.onf and i >= m.denoise_from

        def backward(loss: Tensor) -> None:
            self.precision.backward(loss * loss_scale)

        # 1. Complex images (C2S):  L_adv = BCE(D(p_c), 1), D frozen.
        if D is not None:
            p_c = self.logits(self.G, batches.complex)
            f.loss_adv_complex = self.adversarial_loss(D, p_c)
            backward(m.lambda_adv * f.loss_adv_complex)

        # 2. All images:  L_cls on the mean logits, background left out.
        if m.cls:
            x_cls, present = batches.cls
            scores = self.precision.forward(self.G, x_cls).mean((2, 3))[:, 1:]
            f.loss_cls = F.multilabel_soft_margin_loss(scores, present)
            backward(f.loss_cls)

        # 3. Simple images.  ONF: keep those with IoU(F_p, F_l) > T_class.  S2C: x, y = CutMix(x, y).
        #    PND:  L_seg = mean over labelled pixels of l * [l <= T(i)], l the cross-entropy of a pixel.
        x, y, classes = batches.simple
        kept = torch.ones_like(classes, dtype=torch.bool)
        if mix is None or onf or D is not None:
            with torch.set_grad_enabled(mix is None):
                p = self.logits(self.G, x)
        if onf:
            f.iou_simple, f.passed, kept, y = self.filter_images(p, y, classes)
            f.keep_simple = kept
        if mix is None:
            p_seg, y_seg = p, y
        else:
            x_mix, y_seg = cutmix(*(kept_images(x, y, kept) if onf else (x, y)), mix)
            p_seg = self.logits(self.G, x_mix)
        f.kept = world_size() * kept.sum().float()
        f.loss_seg, f.dropped = segmentation_loss(p_seg, y_seg, m.T(i), m.exempt, m.ignore_label)
        f.foreground = (p_seg.detach().argmax(1) != 0).float().mean()
        loss = f.loss_seg
        if mix is None and D is not None:  # L_adv = BCE(D(p), 1)
            f.loss_adv_simple = self.adversarial_loss(D, p, y == m.ignore_label)
            loss = loss + m.lambda_adv * f.loss_adv_simple
        backward(loss)

        # 4. Discriminator (C2S):  L_D = BCE(D([p, p_c]), 0) / 2 + BCE(D(one-hot y_gt), 1) / 2, predictions detached.
        if D is not None:
            predictions = torch.cat([p.detach(), p_c.detach()]).softmax(1)
            ignored = torch.cat([y == m.ignore_label, torch.zeros_like(p_c[:, 0], dtype=torch.bool)])
            f.loss_D_pred = domain_loss(self.logits(D, predictions), 0, ignored) / 2
            x_gt, y_gt, classes = batches.gt
            if onf:
                with torch.no_grad():
                    p_gt = self.logits(self.G, x_gt)
                f.iou_gt, _, f.keep_gt, y_gt = self.filter_images(p_gt, y_gt, classes)
            label_maps = one_hot(y_gt, p_c.shape[1], m.ignore_label)
            f.loss_D_gt = domain_loss(self.logits(D, label_maps), 1, y_gt == m.ignore_label) / 2
            f.loss_D = f.loss_D_pred + f.loss_D_gt
            backward(f.loss_D)
        return {name: value.detach() for name, value in vars(f).items()}

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        """The output of G for images, or of D for maps, in float32 and resized to the input."""
        return resize(self.precision.forward(network, x), x.shape[2:])

    def adversarial_loss(self, D: nn.Module, p: Tensor, ignored: Tensor | None = None) -> Tensor:
        """BCE(D(softmax p), 1) with D frozen: its parameters get no gradient."""
        D.requires_grad_(False)
        loss = domain_loss(self.logits(D, p.softmax(1)), 1, ignored)
        D.requires_grad_(True)
        return loss

    def filter_images(self, p: Tensor, labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ONF: B IoUs, the number above their threshold, B decisions, and labels that ignore dropped images."""
        iou = foreground_iou(p.detach(), labels, self.method.ignore_label)
        thresholds = self.method.iou_thresholds[classes]
        passed = world_size() * (iou > thresholds).sum().float()
        keep = online_noise_filter(iou, thresholds)
        return iou, passed, keep, labels.masked_fill(~keep[:, None, None], self.method.ignore_label)


def kept_images(images: Tensor, labels: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The images that ONF keeps; if all are in other processes, the first one, every pixel of which is ignored."""
    index = keep.nonzero()[:, 0]
    index = index if len(index) else index.new_zeros(1)
    return images[index], labels[index]
