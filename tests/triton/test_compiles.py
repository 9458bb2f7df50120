"""What the interpreter does not show: that the kernels are built for a real GPU, and fit into its memory."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHARED = 99 * 1024
"""Bytes that one program may use on the smallest of the cards that the kernels take."""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
def test_the_kernels_compile_for_cards_that_are_not_here(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.triton.compile_for", "90"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    built = {row["kernel"]: row["shared"] for row in map(json.loads, found.stdout.splitlines())}
    assert set(built) == {
        *("pool_keys", "select_blocks", "list_blocks"),
        *("attend_blocks", "attend_spans", "score_tokens"),
    }
    assert max(built.values()) <= SHARED
