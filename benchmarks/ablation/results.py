"""Statistics of finished runs, for tables and plots."""

import functools
import operator
import statistics
from collections.abc import Sequence

import numpy as np

from benchmarks.ablation.plan import Row

Finished = dict[Row, list[dict]]  # lines of runs.jsonl by row

LABELS = {
    "plain": "cross-entropy on all labels",
    "cls": "+ classification",
    "cls+onf": "+ ONF",
    "cls+onf+pnd": "+ PND",
    "cls+onf+pnd+s2c": "+ S2C",
    "full": "+ C2S: the full method",
    "full-cls": "full without classification",
    "full-onf": "full without ONF",
    "full-pnd": "full without PND",
    "full-s2c": "full without S2C",
    "full-c2s": "full without C2S",
}
KINDS = {"all": "all images", "simple": "one class", "multi": "several classes"}
HOWS = {"raw": "raw", "crf": "+ CRF"}
LOST = 0.01  # IoU on val below which a class counts as lost
PROBED = {  # where the probe's file has it
    "IoU of the labels kept by ONF": "onf.iou_kept",
    "IoU of the labels dropped": "onf.iou_dropped",
    "IoU of all labels": "iou_labels",
    "IoU of the network": "iou_network",
    "images dropped": "onf.dropped",
    "ONF's precision": "onf.precision",
    "ONF's recall": "onf.recall",
    "bad images": "onf.base",
    "pixels dropped": "pnd.kept.dropped",
    "PND's precision": "pnd.kept.precision",
    "PND's recall": "pnd.kept.recall",
    "wrong pixels": "pnd.kept.base",
}


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of shares, in percent; the deviation of one value is 0."""
    values = [100 * value for value in values]
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def mious(lines: Sequence[dict], how: str, kind: str) -> dict[int, float]:
    """Val mIoU by seed; val sets without images of this kind are left out."""
    found = {line["seed"]: line[how]["miou"].get(kind) for line in lines}
    return {seed: value for seed, value in found.items() if value is not None}


def differences(less: Sequence[dict], more: Sequence[dict], how: str, kind: str) -> list[float]:
    """The gain of `more` over `less` for each seed, which fixes data set and initial weights."""
    before, after = mious(less, how, kind), mious(more, how, kind)
    return [after[seed] - before[seed] for seed in after if seed in before]


def lost_classes(line: dict) -> int:
    """Number of foreground classes that the network (almost) never finds on val."""
    counts = np.sum(list(line["raw"]["confusion"].values()), 0)
    hits = counts.diagonal()
    return int((hits < LOST * (counts.sum(0) + counts.sum(1) - hits))[1:].sum())


def over_time(lines: Sequence[dict], name: str) -> dict[int, tuple[float, float]]:
    """Mean and spread of a quantity of PROBED over the runs, by iteration."""
    found: dict[int, list[float]] = {}
    for look in (look for line in lines for look in line["probe"]):
        value = functools.reduce(operator.getitem, PROBED[name].split("."), look)
        if value is not None:
            found.setdefault(look["i"], []).append(value)
    return {i: mean_spread(values) for i, values in sorted(found.items())}
