"""Lists, transforms and seeded sampling, against cases made by hand."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DEADLINE, ROOT
from PIL import Image

from datasets import transforms as T
from datasets.checks import require_files
from datasets.lists import Entry, read_class_names, read_list
from datasets.loaders import DataConfig, EvalDataset, GTDataset, SimpleDataset, eval_loader, train_loader
from datasets.sampling import InfiniteBatchSampler, generator
from datasets.voc import VOC_CLASSES, palette
from utils.core.errors import InputError


def config(root: Path, **changes: object) -> DataConfig:
    settings = {"crop": (48, 56), "num_classes": 4, "seed": 3} | changes
    return DataConfig(root / "JPEGImages", root / "sal2gt", **settings)


def entries(root: Path, name: str, labelled: bool = True) -> list[Entry]:
    return read_list(root / "lists" / name, 4, labelled)


def test_list(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("one 12 14 \n\n2008_000003 0\ncats/IMG_1.JPG 3\n")
    expected = [Entry("one", (12, 14)), Entry("2008_000003", (0,)), Entry("cats/IMG_1", (3,))]
    assert read_list(path, 21) == expected
    path.unlink()
    with pytest.raises(InputError, match=r"list\.txt not found"):
        read_list(path, 21)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  \n\n", "is empty"),
        ("/photos/a 1", "line 1: the ID leaves the folders .*, not '/photos/a 1'"),
        ("a 1\nb/../../c 1", "line 2: the ID leaves the folders"),
        ("one 1_0", "integers"),
        ("one 20", r"line 1: a class is not in 0\.\.19"),
        ("one 3\ntwo -1", "line 2: classes must be integers from 0"),
        ("one", "line 1: the image has no class"),
        ("IMG 2007 1", "line 1: .*the ID has a space"),
    ],
)
def test_bad_list(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_list(tmp_path / "list.txt", 21)


def test_class_names(tmp_path: Path) -> None:
    assert read_class_names(None, 21) == ["background", *VOC_CLASSES]
    assert read_class_names(None, 3) == ["background", "class 0", "class 1"]
    (tmp_path / "names.txt").write_text("\ufeffcat\n\ufeffpotted plant\n", encoding="utf-8")  # byte order marks
    assert read_class_names(tmp_path / "names.txt", 3)[1:] == ["cat", "potted plant"]
    with pytest.raises(InputError, match="has 2 class names"):
        read_class_names(tmp_path / "names.txt", 21)
    (tmp_path / "names.txt").write_text("one 1\n", encoding="utf-16")
    with pytest.raises(InputError, match=r"names\.txt cannot be read as text in UTF-8"):
        read_class_names(tmp_path / "names.txt", 3)


def test_palette_is_vocs() -> None:
    assert palette()[[1, 15, 20, 255]].tolist() == [[128, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192]]


def test_transforms_by_hand() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    label = np.array([[0, 1, 255], [1, 0, 0]], np.uint8)
    padded, padded_label = T.pad(image, label, (3, 4), 255)
    assert (padded[2] == 0).all() and (padded[:, 3] == 0).all() and (padded[:2, :3] == image).all()
    assert (padded_label[2] == 255).all() and (padded_label[:, 3] == 255).all()
    assert T.pad(image, label, (1, 2), 255)[0] is image  # larger than the crop: as it is
    crops = {
        (int(i[0, 0, 0]), int(lab[0, 0]))
        for i, lab in (T.random_crop(image, label, (1, 1), generator(0, "t", k)) for k in range(99))
    }
    assert crops == {(0, 0), (3, 1), (6, 255), (9, 1), (12, 0), (15, 0)}  # every place, image and label alike
    flips = [T.random_mirror(image, label, generator(0, "t", k))[1][0, 0] for k in range(40)]
    assert 0 < flips.count(255) < 40
    assert T.to_network(image)[:, 0, 0] == pytest.approx(-T.MEAN_BGR[::-1] + [2, 1, 0])  # RGB, channels first
    assert {T.random_scale_factor(generator(0, "t", k)) for k in range(300)} == {0.5 + n / 10 for n in range(12)}


def test_input_is_converted_as_by_numpy() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    marked, _ = T.pad(T.mark_inside(image), None, (3, 5), 255)
    planes = np.stack([T.to_planes(marked), T.to_planes(marked[:, ::-1])])  # also mirrored
    padded = np.pad(T.to_network(image), ((0, 0), (0, 1), (0, 2)))
    for found, expected in zip(T.to_input(torch.from_numpy(planes)), (padded, padded[..., ::-1])):
        assert np.array_equal(found.numpy(), expected)


def test_gt_draws_the_scale_again_from_the_original(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, factors = [], itertools.cycle([0.5, 0.6, 1.0])
    scale = T.scale
    monkeypatch.setattr(T, "random_scale_factor", lambda _: next(factors))
    monkeypatch.setattr(T, "scale", lambda i, lab, f: (seen.append((i.shape[:2], f)), scale(i, lab, f))[1])
    gt = GTDataset(entries(tiny_data, "simple_list.txt"), config(tiny_data, random_scale=True))
    image, label, _ = gt[0, 0]
    assert image.shape == (4, 48, 56) and label.shape == (48, 56)
    assert seen == [((64, 80), 0.5), ((64, 80), 0.6), ((64, 80), 1.0)]
    seen.clear()
    factors = itertools.cycle([0.5])
    image, label, _ = gt[0, 0]
    assert len(seen) == 10 and image.shape == (4, 48, 56) and 255 not in label[:, -1]  # stretched, not padded


def test_stream_covers_the_list_before_it_repeats() -> None:
    batches = list(itertools.islice(InfiniteBatchSampler(5, 2, seed=1, purpose="simple"), 5))
    positions, indices = zip(*itertools.chain(*batches))
    assert positions == tuple(range(10))
    assert sorted(indices[:5]) == sorted(indices[5:]) == list(range(5))
    assert indices[:5] != indices[5:]
    later = list(itertools.islice(InfiniteBatchSampler(5, 2, seed=1, purpose="simple", start=3), 2))
    assert later == batches[3:]
    others = [InfiniteBatchSampler(5, 2, 2, "simple"), InfiniteBatchSampler(5, 2, 1, "gt")]
    assert all(list(itertools.islice(other, 5)) != batches for other in others)


def test_same_batches_with_0_1_and_2_workers(tiny_data: Path) -> None:
    changed = config(tiny_data, random_scale=True, random_mirror=True)
    dataset = SimpleDataset(entries(tiny_data, "simple_list.txt"), changed)
    runs = [list(itertools.islice(train_loader(dataset, 5, n), 6)) for n in (0, 1, 2)]
    for batches in zip(*runs):
        for tensors in zip(*batches):
            assert all(torch.equal(tensors[0], other) for other in tensors[1:])
    images = EvalDataset(entries(tiny_data, "val.txt", False), config(tiny_data), labels=False)
    for entry, *items in zip(images.entries, *(eval_loader(images, n) for n in (0, 1, 2)), strict=True):
        assert all(item[0] == entry.id and torch.equal(item[1], items[0][1]) for item in items)
    resumed = list(itertools.islice(train_loader(dataset, 5, 0, start=4), 2))
    assert all(torch.equal(a, b) for a, b in zip(resumed[0], runs[0][4]))


def test_missing_files_are_counted(tiny_data: Path, tmp_path: Path) -> None:
    lost = [Entry("lost", (0,)), Entry("gone", (1,)), *entries(tiny_data, "simple_list.txt")]
    simple = SimpleDataset(lost, config(tiny_data))
    with pytest.raises(InputError, match=r"lost\.jpg not found, the first of 2 missing among 14 listed images$"):
        require_files(simple.files(), simple.origin)
    labels = {"label": simple.files()["label"]}
    expected = r"lost\.png not found, the first of 2 missing among 14 listed labels: create the pseudo labels"
    with pytest.raises(InputError, match=expected):
        require_files(labels, simple.origin)
    (tmp_path / "IMG 3.jpg").touch()
    images = EvalDataset([Entry("IMG", (3,))], DataConfig(tmp_path), labels=False)
    expected = r"IMG\.jpg not found, .* listed images: 'IMG 3\.jpg' exists, but an ID has no spaces: rename"
    with pytest.raises(InputError, match=expected):
        require_files(images.files(), images.origin)


# Limited so, torch cannot put the tensors of workers into shared memory.
LOAD = """
import resource, sys
from pathlib import Path
from datasets import loaders
from datasets.lists import Entry
from datasets.loaders import ComplexDataset, DataConfig, EvalDataset, eval_loader, train_loader
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    loaders.ENOUGH = 1 << 60
    images, config = [Entry("a")] * 3, DataConfig(Path(sys.argv[1]))
    print(*(list(image.shape) for _, image in eval_loader(EvalDataset(images, config, labels=False), 2)))
    batches = train_loader(ComplexDataset(images, config), 10, 2)
    print(*{tuple(image.shape) for _ in range(10) for image in next(batches)})
"""


def test_workers_do_with_little_shared_memory(tmp_path: Path) -> None:
    Image.effect_noise((700, 500), 50).save(tmp_path / "a.jpg")
    (tmp_path / "load.py").write_text(LOAD)
    command = [sys.executable, tmp_path / "load.py", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.check_output(command, text=True, timeout=DEADLINE, env=environment)
    assert found == "[1, 3, 500, 700]\n(10, 4, 321, 321)\n"


def test_no_more_workers_than_cores(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 2's configuration asks for 10; torch warns about more processes than cores."""
    seen: list[int] = []
    images = EvalDataset(entries(tiny_data, "val.txt", False), config(tiny_data), labels=False)
    monkeypatch.setattr("utils.core.cli.CORES", 2)
    monkeypatch.setattr("datasets.loaders.DataLoader", lambda num_workers, **_: seen.append(num_workers) or [])
    for workers in (10, 1, 0):
        assert not [*eval_loader(images, workers), *train_loader(images, 2, workers)]
    assert seen == [2, 2, 1, 1, 0, 0]
