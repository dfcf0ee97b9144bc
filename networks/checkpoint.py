"""Weights on disk: the published files load as they are, anything else is refused with a reason."""

import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from networks.deeplab import DeepLab, arch_from_state
from utils.core.errors import InputError
from utils.core.files import atomic_write


def save(value: object, path: str | Path) -> None:
    """Write what torch.load reads with weights_only=True; whole or not at all."""
    with atomic_write(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # torch's complaint about its unfinished file hides the reason: a full disk, a killed process, Ctrl-C.
            raise (error.__context__ or error) from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict, on the CPU, a `module.` prefix taken off their names.

    Raises:
        InputError: the file is missing, damaged, holds code, or is no dictionary of tensors.
    """
    state = read_checkpoint(path)
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise InputError(f"{path} is no state dict (names with a tensor each)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def read_checkpoint(path: str | Path) -> object:
    """What `save` wrote, on the CPU: tensors, numbers, texts and containers of them.

    Raises:
        InputError: the file is missing, damaged, or holds code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} not found") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path} holds something else than tensors; it was not run: get it anew") from None
    except Exception as error:  # a damaged file can fail in any way inside torch
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{path} cannot be read as a checkpoint ({reason[0]}): get it anew") from None


def state_dict_mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """The first missing, unexpected and misshapen tensor of a state dict, in words; empty where all fit."""
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [key for key in state if key in own and state[key].shape != own[key].shape]
    problems = [f"{len(keys)} {what}, first {keys[0]}" for what, keys in
                (("missing", missing), ("unexpected", unexpected)) if keys]  # fmt: skip
    if misshapen:
        key = misshapen[0]
        shapes = f"{tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        problems.append(f"{len(misshapen)} misshapen, first {key}: {shapes}")
    return f"tensors {'; '.join(problems)}" if problems else ""


def load_strict(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict that must fit; only `num_batches_tracked` may be missing, as in old files.

    Raises:
        InputError: names the first missing, unexpected and misshapen tensor.
    """
    problems = state_dict_mismatch(network.state_dict(), state)
    if problems:
        raise InputError(f"{path} does not fit this network: {problems}")
    network.load_state_dict(dict(state), strict=False)


def load_matching(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, skip: str = "") -> int:
    """Copy the tensors whose name and shape match; those named `skip`... stay out.

    Returns:
        How many were copied.

    Raises:
        InputError: none was.
    """
    own = network.state_dict()
    matching = {
        key: value
        for key, value in state.items()
        if key in own and value.shape == own[key].shape and not (skip and key.startswith(skip))
    }
    # Counters and narrow biases fit any network; a network is recognised by a convolution.
    if not any(value.ndim == 4 for value in matching.values()):
        raise InputError(
            f"{path}: no convolution fits this network: {state_dict_mismatch(own, state)}; see --arch, in stage"
            " 2 MODEL.NAME and MODEL.N_BLOCKS"
        )
    network.load_state_dict(matching, strict=False)
    return len(matching)


def load_deeplab(path: str | Path, num_classes: int | None = None) -> DeepLab:
    """A trained segmentation network in eval mode; its architecture is told from the tensors.

    Raises:
        InputError: the file is no such checkpoint, or has another number of classes.
    """
    state = read_state(path)
    found = arch_from_state(state)
    if found is None:
        raise InputError(
            f"{path} is no DeepLab checkpoint: it lacks conv1.weight or layer5.conv2d_list.0.bias"
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
    """A short name for a network's weights, the same for the same tensors wherever they lie."""
    crc = 0
    for tensor in network.state_dict().values():
        crc = zlib.crc32(tensor.cpu().contiguous().numpy(), crc)
    return f"{crc:08x}"
