"""Triton kernels for NVIDIA GPUs: gate, rule and lists in two launches, attention over the lists in a third.

Files whose functions are under ``triton.jit`` hold device code and nothing else; each has a wrapper beside it.
PyTorch's versions (gates, rules, ``kernels/reference``) stay the oracle. Without a GPU the same code runs in
Triton's interpreter, for tests: TRITON_INTERPRET=1 has to be set before the first use. Importing this room
brings no Triton.

    device code       wrapper         what
    pool_keys.py      decide.py       keys of a block -> mean, maximum, minimum -> projected
    select_blocks.py  decide.py       scores, softmax, top-p, forced blocks, lists
    list_blocks.py    lists.py        a decision that is there already -> lists
    attend_blocks.py  attention.py    attention over the lists
    attend_spans.py   packed.py       attention of texts that stand behind each other
    score_tokens.py   tokens.py       the token gate

Written for what Triton 3.7.1 (which PyTorch 2.13 brings) and 3.9.0 both have.
"""

import functools
import importlib.util
import os

import torch

SIDES = (16, 32, 64, 128, 256)
"""Sides of a block that the kernels take: powers of two that a matrix unit computes whole."""
LARGEST_HEAD = 128
OLDEST = (8, 0)
"""Compute capability (major, minor) from which bfloat16 is computed in hardware."""


def interpreting() -> bool:
    """Whether kernels run in the interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def unavailable(device: torch.device) -> str:
    """Reason the kernels cannot run on this device, or ''."""
    interpreted = device.type == "cpu" and interpreting()
    if device.type != "cuda" and not interpreted:
        return f"it is made for a CUDA GPU, and the model is on {device.type}"
    if not installed():
        return "the package triton is not installed, which PyTorch for CUDA brings"
    if interpreted:
        return ""
    if torch.version.cuda is None:
        return "it was written for NVIDIA GPUs, and this PyTorch is for another one"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST:
        return (
            f"{torch.cuda.get_device_name(device)} has compute capability {found[0]}.{found[1]}, and the "
            f"kernels need {OLDEST[0]}.{OLDEST[1]}"
        )
    return ""


def refuses(block: tuple[int, int], head_size: int, value_size: int) -> str:
    """Reason the kernels cannot compute such blocks or heads, or ''."""
    if not set(block) <= set(SIDES):
        return (
            f"it computes blocks with sides of {', '.join(map(str, SIDES))} tokens, and this text is "
            f"decided in blocks of {block[0]} x {block[1]}; set granularity='block' and such a block"
        )
    if head_size != value_size:
        return f"keys have {head_size} numbers per head and values {value_size}"
    if head_size % 16 or head_size > LARGEST_HEAD:
        return f"the head size is {head_size}, and it takes multiples of 16 up to {LARGEST_HEAD}"
    return ""


def padded(size: int, least: int = 16) -> int:
    """The next power of two, at least ``least``: what a tile of the device measures."""
    return max(least, 1 << (size - 1).bit_length())
