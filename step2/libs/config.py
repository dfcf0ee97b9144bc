"""Loads the YAML configuration of stage 2, applies overrides from the command line, and validates every key."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from step2.libs.models import MODELS
from utils.core import cli
from utils.core.errors import InputError

Check = Callable[[Any], Any]  # converts a value or raises an error; its name describes the values


def plain(accept: Callable[[Any], bool], description: str) -> Check:
    return cli.checked(lambda value: value, accept, description)


def number(parse: Callable[[str], float]) -> Check:  # YAML parses 1e-4 as a string
    return cli.checked(lambda value: parse(str(value)), lambda _: True, f"a {parse.__name__}")


def numbers(description: str, parse: Callable[[str], float], accept: Callable[[list[float]], bool] = bool) -> Check:
    def convert(value: Any) -> list[float]:
        return [parse(str(item)) for item in value] if isinstance(value, list) else []

    return cli.checked(convert, accept, f"a list of {description}")


def one_of(*names: str) -> Check:
    return plain(lambda value: value in names, f"one of {', '.join(names)}")


TEXT = plain(lambda value: isinstance(value, str), "a text")
# All keys, by the check of their values.
KEYS = {
    TEXT: "EXP.ID EXP.OUTPUT_DIR DATASET.ROOT DATASET.PSEUDO_LABELS DATASET.SPLIT.TRAIN DATASET.SPLIT.VAL",
    plain(lambda value: isinstance(value, str | None), "a text or null"): "DATASET.LABELS MODEL.INIT_MODEL",
    one_of("vocaug"): "DATASET.NAME",
    one_of(*MODELS): "MODEL.NAME",
    one_of("sgd"): "SOLVER.OPTIMIZER",
    number(cli.count): "DATASET.IGNORE_LABEL DATALOADER.NUM_WORKERS SOLVER.ITER_SAVE CRF.ITER_MAX",
    number(cli.positive_int): "DATASET.N_CLASSES IMAGE.SIZE.TRAIN SOLVER.BATCH_SIZE.TRAIN SOLVER.ITER_MAX"
    " SOLVER.ITER_SIZE SOLVER.LR_DECAY SOLVER.AVERAGE_LOSS",
    number(cli.non_negative): "IMAGE.MEAN.R IMAGE.MEAN.G IMAGE.MEAN.B SOLVER.LR SOLVER.MOMENTUM SOLVER.POLY_POWER"
    " SOLVER.WEIGHT_DECAY CRF.POS_W CRF.POS_XY_STD CRF.BI_W CRF.BI_XY_STD CRF.BI_RGB_STD",
    numbers("numbers from 0.1 to 4", float, lambda v: bool(v) and 0.1 <= min(v) <= max(v) <= 4): "DATASET.SCALES",
    numbers("four positive integers", cli.positive_int, lambda v: len(v) == 4): "MODEL.N_BLOCKS",
    numbers("positive integers", cli.positive_int): "MODEL.ATROUS_RATES",
}
CHECKS = {key: check for check, keys in KEYS.items() for key in keys.split()}

# Keys of published configurations that are accepted but have no effect.
IGNORED = {"DATASET.SPLIT.TEST", "IMAGE.SIZE.BASE", "IMAGE.SIZE.TEST", "SOLVER.BATCH_SIZE.TEST", "SOLVER.ITER_TB"}

# Keys (or prefixes of keys) whose values may change when training resumes.
FREE = "EXP.OUTPUT_DIR DATASET.LABELS DATASET.SPLIT.VAL DATALOADER. SOLVER.ITER_SAVE SOLVER.AVERAGE_LOSS CRF."


class Config(SimpleNamespace):
    """A configuration; keys are attributes, as in `config.SOLVER.LR`, and in `values` by `SECTION.KEY`."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values=values)
        for key, value in values.items():
            *sections, last = key.split(".")
            section: SimpleNamespace = self
            for name in sections:
                section = vars(section).setdefault(name, SimpleNamespace())
            setattr(section, last, value)

    def training_options(self) -> dict[str, Any]:
        """The values that the weights depend on, by `SECTION.KEY`."""
        return {key: value for key, value in self.values.items() if not key.startswith(tuple(FREE.split()))}


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Load and validate a YAML file; `overrides` are `SECTION.KEY=value` strings that replace values of it."""
    try:
        values = flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(f"{path} not found: set --config-path to a configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    for override in overrides:
        key, equals, word = override.partition("=")
        if not equals:
            raise InputError(f"{override!r} is not an override: use SECTION.KEY=value, such as SOLVER.ITER_MAX=100")
        if key not in CHECKS.keys() | IGNORED:
            raise InputError(f"{override!r} overrides an unknown key: {key}")
        try:
            values[key] = yaml.safe_load(word)
        except yaml.YAMLError:
            raise InputError(f"{override!r}: the value is not valid YAML") from None
    for problem, keys in (("unknown", values.keys() - CHECKS - IGNORED), ("missing", CHECKS.keys() - values)):
        if keys:
            raise InputError(f"{path}: {problem} key {', '.join(sorted(keys))}")
    return Config({key: checked(path, key, values[key]) for key in CHECKS})


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested dictionaries by `SECTION.KEY`."""
    found: dict[str, Any] = {}
    for name, value in values.items() if isinstance(values, dict) else ():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def checked(path: Path, key: str, value: Any) -> Any:
    """The value, converted by the check of its key."""
    try:
        return CHECKS[key](value)
    except (TypeError, ValueError):
        raise InputError(f"{path}: {key} must be {CHECKS[key].__name__}, not {value!r}") from None
