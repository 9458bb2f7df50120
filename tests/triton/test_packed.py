"""An encoder that drops tokens, with gates and attention by the kernels, against the same by PyTorch."""

import pytest
import torch

import saa_core as saa
from saa_core.attention import packed
from saa_core.run.varlen import encode, packing_of
from saa_core.task import add_token_gates
from tests.conftest import TINY
from tests.train.test_tokens import Words, texts


def test_packed_texts_lose_the_same_tokens(tiny, triton_device, monkeypatch):
    model = saa.attach(tiny("bert").base_model.to(triton_device), Words(), rank=8)
    for gate in add_token_gates(packing_of(model), TINY["hidden_size"]):
        torch.nn.init.normal_(gate.up.weight, std=3)
        torch.nn.init.zeros_(gate.shift)
    policy = saa.Policy(mass=1.0, tokens=0.5)
    found = encode(model, texts(4), policy)
    asked: list[torch.device] = []
    monkeypatch.setattr(packed, "unavailable", lambda device: asked.append(device) or "not here")
    expected = encode(model, texts(4), policy)
    assert asked, "the second pass went another way"
    assert 0.3 < found.token_share < 1
    assert torch.equal(found.needed, expected.needed)
    torch.testing.assert_close(found.states, expected.states, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_half_precision_runs_the_same_way(tiny, triton_device, count):
    model = saa.attach(tiny("bert").base_model.to(triton_device, torch.bfloat16), Words(), rank=8)
    found = encode(model, texts(count), saa.Policy(mass=1.0))
    assert found.states.dtype == torch.bfloat16
    with torch.inference_mode():
        for ids, states in zip(texts(count), found.split(), strict=True):
            alone = model.hf(torch.tensor([ids], device=triton_device)).last_hidden_state[0]
            assert (states - alone).float().norm() < 3e-2 * alone.float().norm()
