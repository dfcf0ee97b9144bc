"""One training iteration of stage 1, as in Figure 2 of the paper: complex, classification, simple, discriminator."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.voc import IGNORE_LABEL
from utils.alignment import CutMix, cutmix, domain_loss, one_hot
from utils.core.device import Precision
from utils.core.distributed import no_sync, unwrap, world_size
from utils.denoising import foreground_iou, noise_threshold, online_noise_filter, segmentation_loss


@dataclass(frozen=True)
class Method:
    """The method's constants; the defaults are those of the published run on VOC."""

    iou_thresholds: Tensor  # T_class, one per foreground class
    exempt: Tensor  # labels that PND never drops
    denoise_from: int = 1000
    denoise_until: int = 11000
    high_T: float = 1.2
    low_T: float = 0.8
    lambda_adv: float = 0.001
    ignore_label: int = IGNORE_LABEL
    onf: bool = True
    pnd: bool = True
    c2s: bool = True
    cls: bool = True


@dataclass
class Batches:
    """The four batches of an iteration, on the networks' device; images are B x 3 x H x W, labels B x H x W."""

    complex: Tensor | None  # images; None without C2S
    cls: tuple[Tensor, Tensor] | None  # images, B x (C - 1) of 0 and 1; None without classification
    simple: tuple[Tensor, Tensor, Tensor]  # images, labels, B 0-based classes
    gt: tuple[Tensor, Tensor, Tensor] | None  # images, labels, classes; None without C2S


def up(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits resized to the crop."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


class Iteration:
    """Adds one iteration's gradients to G's and D's; the caller steps both optimisers."""

    def __init__(
        self, G: nn.Module, D: nn.Module | None, method: Method, precision: Precision | None = None
    ) -> None:
        """Args: G, D: the networks, or what DistributedDataParallel or torch.compile made of them."""
        self.G, self.D, self.method = G, D, method
        self.precision = precision or Precision()

    def __call__(
        self,
        i: int,
        batches: Batches,
        mix: CutMix | None = None,
        share: float = 1.0,
        last: bool = True,
    ) -> dict[str, Tensor]:
        """Run iteration i, with S2C where `mix` is a draw.

        Args:
            share: every loss is multiplied by it (1 / iter-size).
            last: with several processes, whether their gradients are summed up now or in a later call.

        Returns:
            By name and without gradient, still on the device: the losses, unweighted (`loss_D` is the sum of
            `loss_D_pred` and `loss_D_gt`, which include their half), ONF's `iou_simple`, `keep_simple` and
            the same for `gt`, `kept` (images of the simple batch), `passed` (those of them above their class's
            threshold) and `dropped` (share of its pixels). Scalars are such that their mean over the processes
            is the whole batch's figure.
        """
        out: dict[str, Tensor] = {}
        # G's gradients are summed up over the processes in the last of its three backwards, the simple images'.
        with no_sync(self.G):
            p_complex = self._complex(batches, share, out)
            self._classification(batches, share, out)
        with no_sync(self.G, not last):
            p_simple, labels = self._simple(i, batches, mix, share, out)
        if self.method.c2s:
            with no_sync(self.D, not last):
                self._discriminator(i, batches, p_simple, labels, p_complex, share, out)
        return {name: value.detach() for name, value in out.items()}

    def _logits(self, images: Tensor) -> Tensor:
        """G's logits in float32, resized to the images."""
        return up(self.precision.forward(self.G, images), images.shape[2:])

    def _complex(self, batches: Batches, share: float, out: dict) -> Tensor | None:
        """C2S on complex images: their predictions should look like labels to D."""
        if not self.method.c2s:
            return None
        images = batches.complex
        p_complex = self._logits(images)
        out["loss_adv_complex"] = self._adversarial_loss(p_complex)
        self.precision.backward(out["loss_adv_complex"] * self.method.lambda_adv * share)
        return p_complex.detach()

    def _classification(self, batches: Batches, share: float, out: dict) -> None:
        """Multi-label classification by the global average of the raw logits, background left out."""
        if not self.method.cls:
            return
        images, classes = batches.cls
        scores = self.precision.forward(self.G, images).mean((2, 3))[:, 1:]
        out["loss_cls"] = F.multilabel_soft_margin_loss(scores, classes)
        self.precision.backward(out["loss_cls"] * share)

    def _simple(
        self, i: int, batches: Batches, mix: CutMix | None, share: float, out: dict
    ) -> tuple[Tensor, Tensor]:
        """ONF -> S2C -> PND; returns the unmixed predictions that ONF kept, detached, and their labels."""
        images, labels, classes = batches.simple
        # With S2C only the mixed images carry a gradient; the plain ones serve ONF and D.
        unmixed_used = self.method.c2s or (self.method.onf and i >= self.method.denoise_from)
        p = None
        if mix is None or unmixed_used:
            with torch.set_grad_enabled(mix is None):
                p = self._logits(images)
        keep, number = self._filter(i, p, labels, classes, "simple", out), len(images)
        if keep is not None:
            kept = keep.nonzero()[:, 0]  # the one wait for the device
            number = len(kept)
            if not number:  # another process kept some: one image takes part with weight zero
                kept, labels = kept.new_zeros(1), torch.full_like(labels, self.method.ignore_label)
            images, labels, p = images[kept], labels[kept], p[kept]
        out["kept"] = torch.full((), float(number * world_size()), device=images.device)

        if mix is not None:
            images_mix, labels_mix = cutmix(images, labels, mix)
            p_seg, labels_seg = self._logits(images_mix), labels_mix
        else:
            p_seg, labels_seg = p, labels
        m = self.method
        T = noise_threshold(i, m.denoise_from, m.denoise_until, m.high_T, m.low_T) if m.pnd else None
        loss, out["dropped"] = segmentation_loss(p_seg, labels_seg, T, m.exempt, m.ignore_label)
        out["loss_seg"] = loss
        if mix is None and m.c2s:
            out["loss_adv_simple"] = self._adversarial_loss(p, labels == m.ignore_label)
            loss = loss + m.lambda_adv * out["loss_adv_simple"]
        self.precision.backward(loss * share)
        return (None if p is None else p.detach()), labels

    def _discriminator(
        self,
        i: int,
        batches: Batches,
        p_simple: Tensor,
        labels: Tensor,
        p_complex: Tensor,
        share: float,
        out: dict,
    ) -> None:
        """C2S, D's side: predictions toward 0, one-hot labels toward 1."""
        ignore = self.method.ignore_label
        ignored = torch.cat([labels == ignore, torch.zeros_like(p_complex[:, 0], dtype=torch.bool)])
        probabilities = torch.cat([p_simple, p_complex]).softmax(1)
        out["loss_D_pred"] = domain_loss(self._discriminate(self.D, probabilities), 0, ignored) / 2

        images_gt, labels_gt, classes_gt = batches.gt
        if self.method.onf and i >= self.method.denoise_from:
            with torch.no_grad():
                p_gt = self._logits(images_gt)
            keep = self._filter(i, p_gt, labels_gt, classes_gt, "gt", out)
            # Ignoring every pixel of a dropped image is dropping it, and spares a wait for the device.
            labels_gt = labels_gt.masked_fill(~keep[:, None, None], ignore)
        label_maps = one_hot(labels_gt, probabilities.shape[1], ignore)
        out["loss_D_gt"] = domain_loss(self._discriminate(self.D, label_maps), 1, labels_gt == ignore) / 2
        out["loss_D"] = out["loss_D_pred"] + out["loss_D_gt"]
        self.precision.backward(out["loss_D"] * share)

    def _filter(
        self, i: int, p: Tensor | None, labels: Tensor, classes: Tensor, name: str, out: dict
    ) -> Tensor | None:
        """ONF's decision for a batch, None during the warm-up or without ONF."""
        if not self.method.onf or i < self.method.denoise_from:
            return None
        out[f"iou_{name}"] = foreground_iou(p.detach(), labels, self.method.ignore_label)
        thresholds = self.method.iou_thresholds[classes]
        out[f"keep_{name}"] = keep = online_noise_filter(out[f"iou_{name}"], thresholds)
        if name == "simple":
            out["passed"] = (out["iou_simple"] > thresholds).sum().float() * world_size()
        return keep

    def _adversarial_loss(self, p: Tensor, ignored: Tensor | None = None) -> Tensor:
        """The adversarial loss of predictions toward "label", with D frozen."""
        D = unwrap(
            self.D
        )  # its gradients are none of this forward's business, nor is it of those who sum them up
        D.requires_grad_(False)
        loss = domain_loss(self._discriminate(D, p.softmax(1)), 1, ignored)
        D.requires_grad_(True)
        return loss

    def _discriminate(self, D: nn.Module, maps: Tensor) -> Tensor:
        """D's logits in float32, resized to its input."""
        return up(self.precision.forward(D, maps), maps.shape[2:])
