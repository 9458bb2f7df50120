"""Adding a family, a rule or a kernel takes one new file and one line: done here, in a copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILY = """
from saa_core.families import gpt2
from saa_core.families.base import Family, ungrouped_heads

FAMILY = Family("toy", ("gpt_neox_toy",), gpt2._attentions, ungrouped_heads, causal=True)
"""
RULE = '''
import torch

def toy(score, forced, count, target):
    """Keeps what is forced and every block that scores above the mean."""
    bar = score.mean(-1)
    return ((score >= bar[..., None]) | (forced > 0)) & (count > 0), bar
'''
KERNEL = """
from saa_core.kernels.reference import reference

def toy(q, k, v, decision, allowed, scale):
    return reference(q, k, v, decision, allowed, scale)
"""
ADDITIONS = {
    "family": (FAMILY, "families/toy.py", "families/__init__.py", '    "toy": toy.FAMILY,\n'),
    "rule": (RULE, "rules/toy.py", "rules/__init__.py", '    "toy": toy.toy,\n'),
    "kernel": (KERNEL, "kernels/toy.py", "kernels/__init__.py", '    "toy": toy.toy,\n'),
}
DICTS = {"family": "FAMILIES", "rule": "RULES", "kernel": "KERNELS"}
USE = """
import torch
from transformers import AutoModelForCausalLM, GPT2Config
import saa_core as saa

config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=50, n_positions=64,
                    bos_token_id=0, eos_token_id=2)
hf = AutoModelForCausalLM.from_config(config).eval()
hf.config.model_type = "gpt_neox_toy"
model = saa.attach(hf)
assert model.spec.family == "toy"
call = saa.Call(saa.Policy(mass=0.8, rule="toy", kernel="toy", local=1), record="full")
with torch.no_grad():
    hf(torch.arange(40)[None], saa=call)
assert call.kernel == "toy"
trace = call.trace()
assert 0 < trace.density.mean() < 1
print("worked", saa.__file__)
"""


def add(package: Path, kind: str) -> None:
    source, new, listed, line = ADDITIONS[kind]
    (package / new).write_text(source)
    home = package / listed
    text = home.read_text()
    at = text.index("{\n", text.index(f"{DICTS[kind]}: dict")) + 2
    # The one line; the import is the part of it that Python wants at the top.
    imported = f"from saa_core.{Path(listed).parent} import toy\n"
    home.write_text(imported + text[:at] + line + text[at:])


@pytest.mark.slow
def test_growth_is_one_file_and_one_line(tmp_path):
    shutil.copytree(ROOT / "saa_core", tmp_path / "saa_core")
    for kind in ADDITIONS:
        add(tmp_path / "saa_core", kind)
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(tmp_path) in done.stdout
