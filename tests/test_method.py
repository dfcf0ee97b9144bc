"""Denoising, alignment, the iteration and the optimisers where no reference number reaches."""

import numpy as np
import pytest
import torch
from conftest import assert_close, tiny_network

from networks.deeplab import DeepLab, build_deeplab
from networks.discriminator import Discriminator
from utils.alignment import CutMix, cutmix, domain_loss, draw_cutmix, one_hot
from utils.core.device import Precision
from utils.denoising import foreground_iou, online_noise_filter, segmentation_loss
from utils.evaluation.metrics import ConfusionMatrix, score_table
from utils.iteration import Batches, Iteration, Method
from utils.training.optim import RepeatedSGD, build_sgd


def tiny_method(**changes: object) -> Method:
    return Method(torch.full((3,), 0.3), torch.tensor([], dtype=torch.int64), 5, 9, **changes)


def tiny_networks() -> tuple[DeepLab, Discriminator]:
    return tiny_network().train(), Discriminator(4, 4).train()


def tiny_batches(seed: int = 0, batch: int = 3) -> Batches:
    g = torch.Generator().manual_seed(seed)
    images = [60 * torch.randn(batch, 3, 33, 41, generator=g) for _ in range(4)]
    labels = [torch.randint(0, 4, (batch, 33, 41), generator=g, dtype=torch.uint8) for _ in range(2)]
    classes = torch.randint(0, 3, (batch,), generator=g)
    cls = torch.randint(0, 2, (batch, 3), generator=g).to(images[0].dtype)
    simple, gt = ((images[k], labels[k - 2], classes) for k in (2, 3))
    return Batches(complex=images[0], cls=(images[1], cls), simple=simple, gt=gt)


def gradients(*networks: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for network in networks for p in network.parameters()]


def assert_same_gradients(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 1e-9, "gradient")


def test_onf_keeps_images_above_threshold_else_half_else_all() -> None:
    thresholds = torch.tensor([0.4, 0.4, 0.6])
    for iou, kept in (
        ((0.5, 0.3, 0.61), (True, False, True)),
        ((0.4, 0.1, 0.6), (True, False, True)),  # not above: halved once, for all
        ((0.2, 0.1, 0.1), (True, True, True)),
    ):
        assert online_noise_filter(torch.tensor(iou), thresholds).tolist() == list(kept)


def test_foreground_iou_counts_ignored_pixels_where_predicted() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 1, 0, :3] = 1  # foreground predicted at pixels 0, 1, 2
    labels = torch.tensor([[[1, 255, 0, 0]]])
    assert float(foreground_iou(logits, labels)) == pytest.approx(0.25 / (0.75 + 1e-4))


def test_losses_of_a_batch_without_a_labelled_pixel_are_zero() -> None:
    logits = torch.randn(2, 4, 5, 5, requires_grad=True)
    labels = torch.full((2, 5, 5), 255)
    for threshold in (None, 0.8):
        loss, dropped = segmentation_loss(logits, labels, threshold)
        assert loss.item() == 0 == dropped.item()
    assert domain_loss(logits[:, :1], 1, labels == 255).item() == 0
    loss.backward()
    assert logits.grad.abs().sum() == 0


def test_pnd_divides_by_all_labelled_pixels_and_spares_the_exempt() -> None:
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, :, 0, 0] = torch.tensor([9.0, 0, 0])
    labels = torch.tensor([[[0, 1, 2, 255]]])
    uniform = torch.tensor(3.0).log()
    loss, dropped = segmentation_loss(logits, labels, threshold=1.0)
    assert loss.item() < 1e-3 and dropped.item() == pytest.approx(2 / 3)
    loss, dropped = segmentation_loss(logits, labels, threshold=1.0, exempt=torch.tensor([2]))
    assert loss.item() == pytest.approx(uniform.item() / 3, rel=1e-3) and dropped.item() == pytest.approx(1 / 3)


def test_cutmix_pastes_image_and_label_alike() -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 10)
    labels = torch.arange(3)[:, None, None].expand(3, 8, 10)
    mix = CutMix(0.75, 4, 5, (3, 1, 2, 0))  # three of four images were kept: 1, 2, 0 are pasted
    images_mix, labels_mix = cutmix(images, labels, mix)
    assert (images_mix[:, 0] == labels_mix).all()
    assert labels_mix[:, 4, 5].tolist() == [1, 2, 0]
    assert labels_mix[:, 0, 0].tolist() == [0, 1, 2]
    assert (labels_mix != labels).sum() == 3 * 4 * 4  # sides int(8 / 2) and int(10 / 2) // 2 * 2


def test_cutmix_is_drawn_at_its_rate() -> None:
    draws = [draw_cutmix(np.random.default_rng(k), 5, (33, 41), 0.5) for k in range(400)]
    mixes = [mix for mix in draws if mix]
    assert 150 < len(mixes) < 250
    assert all(sorted(m.permutation) == [0, 1, 2, 3, 4] and 0 <= m.cx < 33 and 0 <= m.cy < 41 for m in mixes)
    assert max(m.cy for m in mixes) >= 33 and 0.9 < max(m.lam for m in mixes) < 1


def test_one_hot_leaves_ignored_pixels_zero() -> None:
    labels = torch.tensor([[[0, 2, 255]]], dtype=torch.uint8)
    assert one_hot(labels, 3)[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_iter_size_shares_add_up_to_the_mean(float64: None) -> None:
    """Two halves of the gradient of the same batch are its gradient."""
    G, D = tiny_networks()
    iteration = Iteration(G, D, tiny_method())
    iteration(2, tiny_batches())
    whole = gradients(G, D)
    for network in (G, D):
        network.zero_grad()
    for _ in range(2):
        iteration(2, tiny_batches(), loss_scale=0.5)
    assert_same_gradients(gradients(G, D), whole)


def test_c2s_starts_at_its_iteration() -> None:
    """Until then, D has no gradient, and the scaler of fp16 accepts the step all the same."""
    G, D = tiny_networks()
    iteration, precision = Iteration(G, D, tiny_method(c2s_from=3)), Precision("fp16")
    optimizers = [torch.optim.SGD(network.parameters(), 1e-4) for network in (G, D)]
    assert "loss_D" not in iteration(2, tiny_batches())
    assert all(p.grad is None for p in D.parameters()) and all(p.grad is not None for p in G.parameters())
    precision.backward(G(tiny_batches().complex).sum())
    precision.step(optimizers)
    assert {"loss_adv_complex", "loss_D"} <= iteration(3, tiny_batches()).keys()
    assert all(p.grad is not None for p in D.parameters())


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("i", [2, 7])
def test_unused_forwards_run_without_gradient(i: int, mixed: bool) -> None:
    G, D = tiny_networks()
    calls = []
    G.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    mix = CutMix(0.5, 16, 20, (1, 2, 0)) if mixed else None
    losses = Iteration(G, D, tiny_method())(i, tiny_batches(), mix)
    simple = [False, True] if mixed else [True]
    gt = [False] if i >= 5 else []
    assert calls == [True, True, *simple, *gt]
    assert ("loss_adv_simple" in losses) == (not mixed)
    assert all(p.requires_grad for p in D.parameters())
    assert losses["kept"] == (losses["keep_simple"].sum() if i >= 5 else 3)
    assert (losses["dropped"] > 0) == (i >= 5)
    assert not any(value.requires_grad for value in losses.values())


def test_discriminator_gets_gradient_from_its_own_loss_alone(float64: None) -> None:
    G, D = tiny_networks()
    Iteration(G, D, tiny_method())(2, tiny_batches())
    with_adversarial = gradients(D)
    D.zero_grad()
    G2, _ = tiny_networks()
    Iteration(G2, D, tiny_method(lambda_adv=0.0))(2, tiny_batches())
    assert_same_gradients(gradients(D), with_adversarial)


def test_unmixed_predictions_that_no_part_needs() -> None:
    G, calls = tiny_network(), []
    G.register_forward_hook(lambda *_: calls.append(1))
    method = tiny_method(onf=False, c2s=False, cls=False)
    Iteration(G, None, method)(7, Batches(simple=tiny_batches().simple), CutMix(0.5, 16, 20, (1, 2, 0)))
    assert len(calls) == 1


def test_repeated_steps_are_full_steps_one_after_the_other(float64: None) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.full((4,), value)) for value in (1.0, 2.0)] for _ in range(2))
    options, steps = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, (3, 1)
    optimizer = RepeatedSGD([{"params": [p], "steps": n} for p, n in zip(ours, steps)], **options)
    plain = [torch.optim.SGD([p], **options) for p in theirs]
    for seed in range(2):
        gradient = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        for p in (*ours, *theirs):
            p.grad = gradient.clone()
        optimizer.step()
        for sgd, n in zip(plain, steps):
            for _ in range(n):
                sgd.step()
    for a, b in zip(ours, theirs):
        assert_close(a, b.detach(), 1e-12, "weight")
    assert len(optimizer.param_groups) == 2


def test_optimiser_groups() -> None:
    G = build_deeplab("resnet101")
    published = {(g["lr_factor"], g["steps"]): len(g["params"]) for g in build_sgd(G, 1e-3).param_groups}
    assert published == {(1, 1): 1, (1, 3): 99, (1, 4): 4, (10, 1): 8}
    single = {(g["lr_factor"], g["steps"]): len(g["params"]) for g in build_sgd(G, 1, repeated=False).param_groups}
    assert single == {(1, 1): 104, (10, 1): 8}


def test_scores_of_absent_and_merely_predicted_classes() -> None:
    confusion = ConfusionMatrix(4)
    confusion.update(torch.tensor([[0, 0, 1, 255]]), torch.tensor([[0, 2, 1, 3]]))
    scores = confusion.scores()
    assert scores["Class IoU"] == {"0": 0.5, "1": 1.0, "2": 0.0, "3": None}
    assert scores["Mean IoU"] == scores["Mean Accuracy"] == 0.75 and scores["Min IoU"] == 0.5
    assert scores["Pixel Accuracy"] == pytest.approx(2 / 3)
    table = score_table(scores, ["background", "bird", "car", "cat"]).splitlines()
    assert table[2].split() == ["bird", "100.00"] and table[4].split() == ["cat", "-"]
    assert table[3].split() == ["car", "0.00"] and confusion.occurring() == {0, 1}
    # The mean leaves out a class that is merely predicted, and the table shows it.
    table = score_table(scores, ["background", "bird", "car", "cat"], confusion.occurring()).splitlines()
    assert table[2].split() == ["bird", "100.00"] and table[3].split() == ["car", "-"]
