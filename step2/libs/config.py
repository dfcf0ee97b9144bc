"""The YAML file of stage 2: read, overridden from the command line, and checked key by key."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from step2.libs.models import MODELS
from utils.core.errors import InputError

POSITIVE = "whole number above 0"

# Every key and its type; a tuple of strings lists the values there are.
SCHEMA: dict[str, Any] = {
    "EXP": {"ID": str, "OUTPUT_DIR": str},
    "DATASET": {
        "NAME": ("vocaug",),
        "ROOT": str,
        "PSEUDO_LABELS": str,
        "LABELS": str | None,
        "N_CLASSES": POSITIVE,
        "IGNORE_LABEL": int,
        "SCALES": list[float],
        "SPLIT": {"TRAIN": str, "VAL": str},
    },
    "DATALOADER": {"NUM_WORKERS": int},
    "IMAGE": {"MEAN": {"R": float, "G": float, "B": float}, "SIZE": {"TRAIN": POSITIVE}},
    "MODEL": {
        "NAME": tuple(MODELS),
        "N_BLOCKS": list[int],
        "ATROUS_RATES": list[int],
        "INIT_MODEL": str | None,
    },
    "SOLVER": {
        "BATCH_SIZE": {"TRAIN": POSITIVE},
        "ITER_MAX": POSITIVE,
        "ITER_SIZE": POSITIVE,
        "ITER_SAVE": int,
        "LR_DECAY": POSITIVE,
        "LR": float,
        "MOMENTUM": float,
        "OPTIMIZER": ("sgd",),
        "POLY_POWER": float,
        "WEIGHT_DECAY": float,
        "AVERAGE_LOSS": POSITIVE,
    },
    "CRF": {
        "ITER_MAX": int,
        "POS_W": float,
        "POS_XY_STD": float,
        "BI_W": float,
        "BI_XY_STD": float,
        "BI_RGB_STD": float,
    },
}

# Keys that published configurations may contain and that have no effect here.
WITHOUT_EFFECT = {"DATASET.SPLIT.TEST", "IMAGE.SIZE.BASE", "IMAGE.SIZE.TEST"}
WITHOUT_EFFECT |= {"SOLVER.BATCH_SIZE.TEST", "SOLVER.ITER_TB"}


# Keys whose values may change when training resumes.
FREE = ("EXP.OUTPUT_DIR", "DATASET.LABELS", "DATASET.SPLIT.VAL", "DATALOADER.", "CRF.")
FREE += ("SOLVER.ITER_SAVE", "SOLVER.AVERAGE_LOSS")


class Config:
    """Nested keys as attributes, as in `config.SOLVER.LR`; `text` is the whole configuration as YAML."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values, self.text = values, yaml.safe_dump(dict(values))
        for key, value in values.items():
            setattr(self, key, Config(value) if isinstance(value, Mapping) else value)

    def of_training(self) -> dict[str, Any]:
        """`SECTION.KEY` and value of all keys that the weights depend on."""
        return {key: value for key, value in _flat(self.values, "") if not key.startswith(FREE)}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a YAML file; `overrides` are `SECTION.KEY=value`.

    Raises:
        InputError: the file is missing or no YAML; a key is unknown, missing or of another type.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found: name the configuration with --config-path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no YAML that can be read: {' '.join(str(error).split())}") from None
    for override in overrides:
        _override(values, override)
    values = _checked(values, SCHEMA, "", str(path))
    if len(values["MODEL"]["N_BLOCKS"]) != 4:
        raise InputError(f"{path}: MODEL.N_BLOCKS must name the blocks of four stages, as [3, 4, 23, 3]")
    if not all(0.1 <= factor <= 4 for factor in values["DATASET"]["SCALES"]):
        raise InputError(f"{path}: DATASET.SCALES must lie between 0.1 and 4")
    return Config(values)


def _override(values: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is no override: write SECTION.KEY=value, as in SOLVER.ITER_MAX=100")
    *sections, last = key.split(".")
    for section in sections:
        values = values.get(section) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise InputError(f"{override!r} overrides an unknown key: {key}")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{override!r}: the value is no YAML") from None


def _checked(value: Any, kind: Any, key: str, path: str) -> Any:
    """`value` as `kind` wants it; InputError names the key that does not fit."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise InputError(f"{path}: {key or 'the file'} must hold the keys {', '.join(kind)}")
        prefix = f"{key}." if key else ""
        unknown = {name for name in set(value) - set(kind) if f"{prefix}{name}" not in WITHOUT_EFFECT}
        for what, names in (("unknown", unknown), ("missing", set(kind) - set(value))):
            if names:
                listed = ", ".join(prefix + str(name) for name in sorted(names, key=str))
                raise InputError(f"{path}: {what} key {listed}")
        return {name: _checked(value[name], inner, prefix + name, path) for name, inner in kind.items()}
    if isinstance(kind, tuple):
        if value not in kind:
            raise InputError(f"{path}: {key} must be one of {', '.join(kind)}, not {value!r}")
        return value
    if kind == POSITIVE:
        if _scalar(value, int, key, path) == 0:
            raise InputError(f"{path}: {key} must be a {POSITIVE}")
        return value
    if kind in (list[int], list[float]):
        item = int if kind == list[int] else float
        if not isinstance(value, list) or not value:
            raise InputError(f"{path}: {key} must be a list of {item.__name__}, not {value!r}")
        return [_checked(element, item, key, path) for element in value]
    if kind == str | None:
        return None if value is None else _checked(value, str, key, path)
    return _scalar(value, kind, key, path)


def _scalar(value: Any, kind: type, key: str, path: str) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:  # YAML reads 1e-4, without a point, as text
            value = float(value)
        except ValueError:
            pass
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{path}: {key} must be of type {kind.__name__}, not {value!r}")
    if kind in (int, float) and not 0 <= value < float("inf"):
        raise InputError(f"{path}: {key} must not be negative or infinite, not {value!r}")
    return value
