"""Creates the folder of a finished run without training, for the tests of the report."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets.labels import save_labels
from utils.core.files import save_array, save_json
from utils.evaluation.metrics import ConfusionMatrix, report_scores

# Names that would break a page if they went into it as they are.
NAMES = [
    "background",
    'bird <img src="x">',
    "car & \"van\" 'x'",
    "averyveryverylongclassnamewithoutanyspaceatall" * 2,
]
STAGE2 = "demo/deeplabv2_mini_msc"


def labels_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def wrong_by(labels: np.ndarray, pixels: int) -> np.ndarray:
    """The truth shifted sideways, with background for the ignore label."""
    return np.where(labels == 255, 0, np.roll(labels, pixels, 1))


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Logits (4 x H x W) whose argmax is `labels`."""
    return np.eye(4, dtype=np.float32)[labels].transpose(2, 0, 1)


def write_log(path: Path, key: str, count: int, **values: list[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{key: 10 * n} | {name: column[n] for name, column in values.items()} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(data: Path, root: Path) -> Path:
    """Create all outputs of the demo: 300 logged iterations, four stages, labels of all kinds."""
    shutil.copytree(data, root / "data")
    lists = root / "data/lists"
    train = labels_of(data / "truth")
    val = labels_of(data / "SegmentationClassAug")
    falling = [3 / (1 + n) + 0.1 for n in range(30)]
    losses = ("loss_seg", "loss_cls", "loss_adv_complex", "loss_adv_simple", "loss_D_pred", "loss_D_gt")
    shares = {"kept": [2.0] * 10 + [1.0] * 20, "dropped": [0.0] * 10 + [0.2] * 20}
    write_log(root / "snapshots/log.jsonl", "i", 30, **dict.fromkeys(losses, falling), **shares)
    write_log(root / "snapshots/val.jsonl", "i", 3, **{"Mean IoU": [0.3, 0.5, 0.4]})
    write_log(root / f"step2/data/models/{STAGE2}/train_aug/log.jsonl", "iteration", 30, loss=falling)
    made = {
        "command": "train.py --list-dir 'a b'",
        "options": {"num_steps": 300, "denoise_from": None, "arch": "<mini>", "no_val": False},
        "versions": {"torch": "2.13.0", "cuda": None},
        "device": "cpu (x86_64, 2 threads)",
        "git": "0123abc",
    }
    save_json(root / "snapshots/run.json", made)
    results = root / f"step2/data/features/{STAGE2}/val"
    places = (
        (root / "logit_val", root / "scores/scores.json"),
        (root / "crf_val", root / "scores/scores_crf.json"),
        (results / "logit", root / f"step2/data/scores/{STAGE2}/val/scores.json"),
        (results / "crf", root / f"step2/data/scores/{STAGE2}/val/scores_crf.json"),
    )
    for pixels, (folder, scores) in zip((9, 6, 5, 3), places):
        confusion = ConfusionMatrix(4)
        for id_, truth in val.items():
            found = wrong_by(truth, pixels)
            confusion.update(torch.from_numpy(truth), torch.from_numpy(found))
            if folder.name.startswith("logit"):
                save_array(folder / f"{id_}.npy", one_hot(found))
            else:
                save_labels(folder / f"{id_}.png", found)
        report_scores(confusion, NAMES, scores, {}, torch.device("cpu"))
    for id_, truth in train.items():
        save_labels(root / f"labels/crf/{id_}.png", wrong_by(truth, 4))
        save_labels(root / f"pseudo_labels/{id_}.png", wrong_by(truth, 2))
        save_array(root / f"logit_train_aug/{id_}.npy", one_hot(wrong_by(truth, 8)))
    row = {"Mean IoU": 0.6, "labelled": 0.9, "error": 0.1}
    for kind in ("simple", "complex"):
        save_json(root / f"scores/labels_{kind}_list.json", {"saliency": row, "+mining": row})
    seconds = {"datasets.openmoji": 3.0, "train.py": 254.2, "gen_label.py": 4.0, "main.py train": 4000.0}
    commands = [{"command": "python train.py --arch mini", "seconds": 254.2}]
    save_json(root / "scores/summary.json", {"scores": {}, "seconds": seconds, "commands": commands})
    lists.joinpath("class_names.txt").write_text("\n".join(NAMES[1:]))
    return root
