"""Without a GPU Triton's own library has to be imported as interpreted code, before PyTorch imports it.

The variable is taken back afterwards: other tests and processes know nothing of the interpreter.
"""

import importlib.util
import os

import torch

INTERPRETED = not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None

if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language  # noqa: F401

    for name in (
        "attend_blocks",
        "attend_spans",
        "list_blocks",
        "pool_keys",
        "score_tokens",
        "select_blocks",
    ):
        importlib.import_module(f"saa_core.triton.{name}")
    del os.environ["TRITON_INTERPRET"]
