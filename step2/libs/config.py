"""Loads the YAML configuration of stage 2, applies overrides from the command line, and validates every key."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from step2.libs.models import MODELS
from utils.core.errors import InputError

POSITIVE = "positive integer"

# All keys with their types; a tuple lists the allowed values.
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
    "MODEL": {"NAME": tuple(MODELS), "N_BLOCKS": list[int], "ATROUS_RATES": list[int], "INIT_MODEL": str | None},
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

# Keys of published configurations that are accepted but have no effect.
IGNORED = {"DATASET.SPLIT.TEST", "IMAGE.SIZE.BASE", "IMAGE.SIZE.TEST", "SOLVER.BATCH_SIZE.TEST", "SOLVER.ITER_TB"}

# Keys (or prefixes of keys) whose values may change when training resumes.
FREE = (
    "EXP.OUTPUT_DIR",
    "DATASET.LABELS",
    "DATASET.SPLIT.VAL",
    "DATALOADER.",
    "SOLVER.ITER_SAVE",
    "SOLVER.AVERAGE_LOSS",
    "CRF.",
)


class Config:
    """A configuration or one of its sections; keys are attributes, as in `config.SOLVER.LR`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        for key, value in values.items():
            setattr(self, key, Config(value) if isinstance(value, dict) else value)

    def __getattr__(self, name: str) -> Any:  # declares the attributes for type checkers
        raise AttributeError(f"the configuration has no key {name}")

    def to_yaml(self) -> str:
        """The configuration as YAML text."""
        return yaml.safe_dump(self.values)

    def training_options(self) -> dict[str, Any]:
        """The values that the weights depend on, by `SECTION.KEY`."""
        return {key: value for key, value in _flatten(self.values) if not key.startswith(FREE)}


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Load and validate a YAML file.

    Args:
        path: the file.
        overrides: `SECTION.KEY=value` strings that replace values of the file.

    Raises:
        InputError: the file is missing or not valid YAML; a key is unknown, missing or has an invalid value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} not found: set --config-path to a configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    for override in overrides:
        _apply_override(values, override)
    values = _validated(values, SCHEMA, "", path)
    if len(values["MODEL"]["N_BLOCKS"]) != 4:
        raise InputError(f"{path}: MODEL.N_BLOCKS must have four values, one per stage, such as [3, 4, 23, 3]")
    if not all(0.1 <= factor <= 4 for factor in values["DATASET"]["SCALES"]):
        raise InputError(f"{path}: all DATASET.SCALES must be between 0.1 and 4")
    return Config(values)


def _apply_override(values: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is not an override: use SECTION.KEY=value, such as SOLVER.ITER_MAX=100")
    *sections, last = key.split(".")
    for section in sections:
        values = values.get(section) if isinstance(values, dict) else None
    if not isinstance(values, dict):
        raise InputError(f"{override!r} overrides an unknown key: {key}")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{override!r}: the value is not valid YAML") from None


def _validated(value: Any, kind: Any, key: str, path: Path) -> Any:
    """Return `value` converted to `kind`, an entry of SCHEMA; InputError names the key of an invalid value."""
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise InputError(f"{path}: {key or 'the file'} must contain the keys {', '.join(kind)}")
        prefix = f"{key}." if key else ""
        unknown = {name for name in set(value) - set(kind) if f"{prefix}{name}" not in IGNORED}
        for what, names in (("unknown", unknown), ("missing", set(kind) - set(value))):
            if names:
                listed = ", ".join(prefix + str(name) for name in sorted(names, key=str))
                raise InputError(f"{path}: {what} key {listed}")
        return {name: _validated(value[name], inner, prefix + name, path) for name, inner in kind.items()}
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
        return [_validated(element, item, key, path) for element in value]
    if kind == str | None:
        return None if value is None else _validated(value, str, key, path)
    return _scalar(value, kind, key, path)


def _scalar(value: Any, kind: type, key: str, path: Path) -> Any:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML parses 1e-4, which has no decimal point, as a string
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{path}: {key} must be of type {kind.__name__}, not {value!r}")
    if isinstance(value, int | float) and not 0 <= value < float("inf"):
        raise InputError(f"{path}: {key} must be finite and not negative, not {value!r}")
    return value
