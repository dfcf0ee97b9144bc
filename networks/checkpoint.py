"""Saves and loads checkpoints, the published ones included, and explains why a file does not fit."""

import json
import os
import pickle
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from networks.deeplab import DeepLab, arch_from_state
from utils.core.distributed import is_main
from utils.core.errors import InputError
from utils.core.files import atomic_write, not_found

WEIGHTS = ("VOC_best.pth", "checkpoint_final.pth")  # what stage 1 and stage 2 write beside the state of a run
OWN_MODULE = re.compile(r"(base|features|layer\d|conv\d)")  # what all names of a trunk alone may begin with
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}


def save(value: object, path: str | Path) -> None:
    """Write a value atomically with torch.save; torch.load(weights_only=True) must be able to read it."""
    value = tree_map_only(Tensor, lambda tensor: tensor.cpu(), value)  # for machines without the device
    with atomic_write(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # torch's error about the unfinished file hides the cause, such as a full disk or Ctrl-C.
            raise (error.__context__ or error) from None


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict to the CPU, from a file of torch.save or safetensors.

    It may lie inside a dictionary, as in {"model": state_dict, "epoch": 3}, and its keys may share a prefix, such as
    `module.`: both are removed, and a line says so.
    """
    value = read_checkpoint(path)
    if isinstance(value, Mapping) and {"iteration", "networks", "optimizers"} <= set(value):
        files = [Path(path).with_name(name) for name in WEIGHTS]
        weights = next((file for file in files if file.exists()), files[0])
        raise InputError(f"{path} is the saved state of a training run: for its weights, use {weights}")
    key, state = find_state_dict(value, path)
    prefix = shared_prefix(state)
    if is_main() and (key or prefix):
        inside = f" in '{key}'" if key else ""
        without = f" without the prefix '{prefix}'" if prefix else ""
        print(f"{path}: using the tensors{inside}{without}")
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise InputError(
                f"{path}: {name} is not finite (NaN or infinity, which large values become in float16): use a copy of"
                " the weights in float32, or those of an earlier iteration"
            )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def find_state_dict(value: object, path: str | Path) -> tuple[str, dict[str, Tensor]]:
    """The state dict that a file contains, and its key in the dictionary around it, or ""."""
    if is_state_dict(value):
        return "", value
    inner = {str(k): v for k, v in value.items() if is_state_dict(v)} if isinstance(value, Mapping) else {}
    if len(inner) > 1:
        raise InputError(
            f"{path} contains several state dicts ({', '.join(inner)}): save the one to use in a file of its own"
        )
    if inner:
        return inner.popitem()
    raise InputError(f"{path} is not a state dict, a dictionary of tensors")


def is_state_dict(value: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether this is a dictionary of tensors by name, and not empty."""
    items = value.items() if isinstance(value, dict) else ()
    return bool(items) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in items)


def shared_prefix(state: Mapping[str, Tensor]) -> str:
    """The modules around a network that all names begin with, such as `module.`, but not those of its own."""
    prefix = ""
    for module in next(iter(state)).split(".")[:-1]:
        longer = f"{prefix}{module}."
        if OWN_MODULE.fullmatch(module) or not all(name.startswith(longer) for name in state):
            break
        prefix = longer
    return prefix


def read_checkpoint(path: str | Path, if_damaged: str = "download it again") -> object:
    """Read a file of torch.save or safetensors to the CPU; `if_damaged` is the advice that ends an error."""
    try:
        return read_safetensors(path) or torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(not_found(path)) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: give the file of the weights") from None
    except Exception as error:  # torch raises any exception on a damaged file
        text = str(error).strip()
        if match := re.search(r"GLOBAL ([\w.]+)", text):
            raise InputError(
                f"{path} contains objects other than tensors ({match[1]}) and was not loaded, since they can run"
                " code: if you trust its origin, load it with weights_only=False and save its state dict alone"
            ) from None
        reason = "no file of torch.save" if isinstance(error, pickle.UnpicklingError) else text.split("\n")[0]
        raise InputError(
            f"{path} cannot be read as a checkpoint ({reason or type(error).__name__}): {if_damaged}"
        ) from None


def read_safetensors(path: str | Path) -> dict[str, Tensor] | None:
    """Read a safetensors file: the size of a JSON header in 8 bytes, the header, the values. None: another format."""
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if file.read(1) != b"{" or start > os.fstat(file.fileno()).st_size:
            return None
        file.seek(0)
        data = bytearray(file.read())
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise InputError(
                f"{path}: {name} has values of type {entry['dtype']}: save a copy of the weights in float32"
            )
        dtype, (begin, end) = DTYPES[entry["dtype"]], entry["data_offsets"]
        values = torch.frombuffer(data, dtype=dtype, count=(end - begin) // dtype.itemsize, offset=start + begin)
        tensors[name] = values.reshape(entry["shape"]).clone()
    return tensors


def state_dict_mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Describe the missing and unexpected tensors of a state dict and those of wrong shape; empty if it matches."""
    kinds = {
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of wrong shape": [
            f"{key}: {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in state
            if key in own and state[key].shape != own[key].shape
        ],
    }
    problems = [f"{len(found)} {kind}, first {found[0]}" for kind, found in kinds.items() if found]
    return f"tensors {'; '.join(problems)}" if problems else ""


def load_strict(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict that must match; only `num_batches_tracked` may be missing, as in old files."""
    problems = state_dict_mismatch(network.state_dict(), state)
    if problems:
        raise InputError(f"{path} does not fit this network: {problems}")
    network.load_state_dict(dict(state), strict=False)


def load_matching(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, skip: str = "") -> int:
    """Copy the tensors whose name and shape match, unless the name starts with `skip`; returns their number."""
    own = network.state_dict()
    matching = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    matching = {key: value for key, value in matching.items() if not (skip and key.startswith(skip))}
    # Counters and small biases match any network, convolutions do not.
    if not any(value.ndim == 4 for value in matching.values()):
        raise InputError(
            f"{path}: no convolution matches this network: {state_dict_mismatch(own, state)} (see --arch; stage 2:"
            " MODEL.NAME and MODEL.N_BLOCKS)"
        )
    network.load_state_dict(matching, strict=False)
    return len(matching)


def load_deeplab(path: str | Path, num_classes: int | None = None) -> DeepLab:
    """Load a trained segmentation network in eval mode; the architecture is inferred from the tensors."""
    state = read_state(path)
    found = arch_from_state(state)
    if found is None:
        raise InputError(
            f"{path} is not a DeepLab checkpoint: it lacks the first convolution (conv1.weight or"
            " features.0.0.weight) or layer5.conv2d_list.0.bias"
        )
    classes, arch = found
    if num_classes is not None and classes != num_classes:
        raise InputError(f"{path} has {classes} classes (background included), but --num-classes is {num_classes}")
    network = DeepLab(classes, arch)
    load_strict(network, state, path)
    return network.eval()


def weights_checksum(network: nn.Module) -> str:
    """A CRC-32 checksum of a network's weights, independent of their device."""
    crc = 0
    for tensor in network.state_dict().values():
        crc = zlib.crc32(tensor.cpu().contiguous().numpy(), crc)
    return f"{crc:08x}"
