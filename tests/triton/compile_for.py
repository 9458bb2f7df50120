"""Compiles the kernels for a GPU that is not here, as a layer would launch them; prints one line per kernel.

    python -m tests.triton.compile_for 90

In a process of its own: where the interpreter is at work nothing is compiled.
"""

import json
import sys

import torch
from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from saa_core.triton.attention import attend_lists
from saa_core.triton.lists import lists_of
from saa_core.triton.packed import attend_texts
from saa_core.triton.tokens import token_scores
from tests.triton.scene import layer

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


def compile_instead(kernel: JITFunction, *args: object, **given: object) -> None:
    """In place of a launch."""
    for name in ("grid", "warmup"):
        given.pop(name)
    options = {name: given.pop(name) for name in ("num_warps", "num_stages") if name in given}
    values = dict(zip(kernel.arg_names, args, strict=False)) | given
    signature, constants = {}, {}
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    built = compile_kernel(ASTSource(kernel, signature, constants), target=target, options=options)
    print(json.dumps({"kernel": kernel.__name__, "shared": built.metadata.shared}), flush=True)


def main() -> None:
    JITFunction.run = compile_instead
    shape = {"heads": 2, "size": 64, "rank": 64, "block": (128, 64), "dtype": torch.bfloat16}
    one = layer(torch.device("cpu"), 200, **shape)
    lists, _ = one.by_triton()
    attend_lists(one.q, one.k, one.v, lists, one.scale, causal=True)
    lists_of(one.by_pytorch())
    place = torch.zeros(200, dtype=torch.int32)
    attend_texts(one.q[0], one.q[0], one.q[0], place, place)
    weights = [torch.zeros(size) for size in ((384,), (384,), (32, 384), (32,), (1, 32), (1,))]
    x = torch.zeros(20, 384, dtype=torch.bfloat16)
    token_scores(x, weights, torch.zeros(()), torch.zeros(20, dtype=torch.bool), 1e-5)


if __name__ == "__main__":
    main()
