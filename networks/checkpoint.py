"""Saves and loads checkpoints, the published ones included, and explains why a file does not fit."""

import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from networks.deeplab import DeepLab, arch_from_state
from utils.core.errors import InputError
from utils.core.files import atomic_write, not_found

WEIGHTS = ("VOC_best.pth", "checkpoint_final.pth")  # what stage 1 and stage 2 write beside the state of a run


def save(value: object, path: str | Path) -> None:
    """Write a value atomically with torch.save; torch.load(weights_only=True) must be able to read it."""
    with atomic_write(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # torch's error about the unfinished file hides the cause, such as a full disk or Ctrl-C.
            raise (error.__context__ or error) from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict to the CPU, removing the prefix `module.` from its keys.

    Raises:
        InputError: the file is missing or damaged, contains code, or is not a dictionary of tensors.
    """
    state = read_checkpoint(path)
    if isinstance(state, Mapping) and {"iteration", "networks", "optimizers"} <= set(state):
        files = [Path(path).with_name(name) for name in WEIGHTS]
        weights = next((file for file in files if file.exists()), files[0])
        raise InputError(f"{path} is the saved state of a training run: for its weights, use {weights}")
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise InputError(f"{path} is not a state dict, a dictionary of tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def read_checkpoint(path: str | Path) -> object:
    """Read a file written by `save` to the CPU.

    Raises:
        InputError: the file is missing or damaged, or contains code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(not_found(path)) from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} contains objects other than tensors and was not loaded: download it again"
        ) from None
    except Exception as error:  # torch raises any exception on a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read as a checkpoint ({reason[0]}): download it again") from None


def state_dict_mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe the missing and unexpected tensors of a state dict and those of wrong shape; empty if it matches."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    wrong_shape = [key for key in state if key in own and state[key].shape != own[key].shape]
    problems = []
    for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of wrong shape", wrong_shape)):
        if keys:
            problems.append(f"{len(keys)} {kind}, first {keys[0]}")
    if wrong_shape:
        key = wrong_shape[0]
        problems[-1] += f": {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
    return f"tensors {'; '.join(problems)}" if problems else ""


def load_strict(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict that must match; only `num_batches_tracked` may be missing, as in old files.

    Raises:
        InputError: it does not match; the message names the first tensors.
    """
    problems = state_dict_mismatch(network.state_dict(), state)
    if problems:
        raise InputError(f"{path} does not fit this network: {problems}")
    network.load_state_dict(dict(state), strict=False)


def load_matching(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, skip: str = "") -> int:
    """Copy the tensors whose name and shape match, except those whose name starts with `skip`.

    Returns:
        The number of tensors copied.

    Raises:
        InputError: no convolution matches.
    """
    own = network.state_dict()
    matching = {
        key: value
        for key, value in state.items()
        if key in own and value.shape == own[key].shape and not (skip and key.startswith(skip))
    }
    # Counters and small biases match any network, convolutions do not.
    if not any(value.ndim == 4 for value in matching.values()):
        raise InputError(
            f"{path}: no convolution matches this network: {state_dict_mismatch(own, state)} (see --arch; stage 2:"
            " MODEL.NAME and MODEL.N_BLOCKS)"
        )
    network.load_state_dict(matching, strict=False)
    return len(matching)


def load_deeplab(path: str | Path, num_classes: int | None = None) -> DeepLab:
    """Load a trained segmentation network in eval mode; the architecture is inferred from the tensors.

    Raises:
        InputError: the file is not such a checkpoint, or has another number of classes.
    """
    state = read_state(path)
    found = arch_from_state(state)
    if found is None:
        raise InputError(
            f"{path} is not a DeepLab checkpoint: it lacks the first convolution (conv1.weight or"
            " features.0.0.weight) or layer5.conv2d_list.0.bias"
        )
    classes, arch = found
    if num_classes is not None and classes != num_classes:
        raise InputError(
            f"{path} has {classes} classes (background included), but --num-classes is {num_classes}"
        )
    network = DeepLab(classes, arch)
    load_strict(network, state, path)
    return network.eval()


def weights_checksum(network: nn.Module) -> str:
    """A CRC-32 checksum of a network's weights, independent of their device."""
    crc = 0
    for tensor in network.state_dict().values():
        crc = zlib.crc32(tensor.cpu().contiguous().numpy(), crc)
    return f"{crc:08x}"
