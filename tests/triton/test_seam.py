"""A whole model under kernel="triton", and what is chosen where."""

import pytest
import torch

import saa_core as saa
from saa_core.attention import fused
from saa_core.attention.choice import choose_kernel
from saa_core.errors import KernelError
from saa_core.kernels import engines
from saa_core.kernels.engines import Engine, Measured, chosen, read_table, save_table
from saa_core.kernels.flex import listed_mask
from saa_core.pairs import Allowed
from saa_core.run.captured import Captured, bucket_for
from saa_core.types import Force
from tests.triton.scene import layer

IDS = torch.arange(70)[None] * 7 % 90 + 3


def policy(kernel: str, **changes: object) -> saa.Policy:
    given = {"mass": 0.3, "sink": 1, "local": 1, "tail": 4, "granularity": "block"}
    return saa.Policy(kernel=kernel, fallback="never", **{**given, **changes})


def logits(model: saa.Model, call: saa.Call) -> torch.Tensor:
    device = model.device
    with torch.inference_mode():
        return model.hf(IDS.to(device), saa=call).logits.float()


@pytest.fixture
def model(tiny, triton_device) -> saa.Model:
    return saa.attach(tiny("llama", num_attention_heads=2, num_key_value_heads=1).to(triton_device))


def test_a_model_computes_and_records_what_it_does_by_pytorch(model):
    plain, recorded, slow = (
        saa.Call(policy(kernel), record)
        for kernel, record in (("triton", "none"), ("triton", "full"), ("reference", "full"))
    )
    outputs = [logits(model, call) for call in (plain, recorded, slow)]
    assert plain.kernel == "triton"
    assert plain.kernel_reason.startswith("asked for; attention over the lists by ")
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    one, other = recorded.trace(), slow.trace()
    assert one.execution.kernel == "triton"
    assert one.density.min() < 1
    for at in range(2):
        assert (one.keep_map(at, 0) == other.keep_map(at, 0)).all()
        assert (one.reason_map(at, 0) == other.reason_map(at, 0)).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"force": (Force(key=5, layer=0), Force(head=1, keep=False))},
        {"mass": None, "budget": 0.5},
        {"guard": saa.Guard(0.5, rows=12)},
    ],
    ids=["overrides", "budget", "guard"],
)
def test_everything_a_policy_asks_for(model, changes):
    calls = [saa.Call(policy(kernel, **changes)) for kernel in ("triton", "reference")]
    found, expected = (logits(model, call) for call in calls)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_first_use_is_checked(triton_device, monkeypatch):
    fused.failed.cache_clear()
    try:
        assert fused.failed(triton_device, torch.float32) == ""
        fused.failed.cache_clear()
        monkeypatch.setattr(fused, "attend_listed", lambda q, *rest, **more: torch.zeros_like(q))
        reason = fused.failed(triton_device, torch.float32)
        assert "wrong by 100%" in reason
        asked, q = policy("triton"), torch.zeros(1, 4, 60, 16, device=triton_device)
        allowed = Allowed(60, 60, True, triton_device)
        with pytest.raises(KernelError, match="wrong by"):
            choose_kernel(asked, asked.block, allowed, q, q, q)
    finally:
        fused.failed.cache_clear()


def test_flex_is_fed_with_the_same_lists(triton_device):
    one = layer(triton_device, 101, heads=4, key_heads=2)
    lists, found = one.by_triton()
    mask = listed_mask(lists, one.allowed, 0, (128, 128))
    M, S = found.keep.shape[2:]
    assert torch.equal(mask.to_dense()[0, :, :M, :S] > 0, found.keep[0])
    q, k = torch.arange(101)[:, None], torch.arange(101)
    pairs = mask.mask_mod(0, 0, q.to(triton_device), k.to(triton_device))
    assert torch.equal(pairs, one.allowed.pairs[0, 0])


def test_the_table_says_which_engine_runs(tmp_path):
    def row(length: int, heads: int, engine: Engine) -> Measured:
        shape = (heads, 3, 64, "bfloat16", (128, 64), length, 0.25)
        return Measured("NVIDIA H200", *shape, engine, {engine.name: 1.0})

    ours = Engine("triton", warps=8, stages=3)
    file = tmp_path / "h200.json"
    save_table([row(4096, 9, ours), row(65536, 9, Engine("flash")), row(4096, 12, ours)], file)
    table = read_table(file)

    def ask(length: int, **changes: object) -> Engine:
        about = {"gpu": "NVIDIA H200", "shape": (9, 3, 64), "dtype": "bfloat16"}
        return chosen(table, **{**about, "block": (128, 64), "length": length, **changes})

    assert (ask(1000), ask(100_000)) == (ours, Engine("flash"))
    assert ask(1000, shape=(32, 8, 64)) == ours
    for other in ({"gpu": "NVIDIA L4"}, {"shape": (32, 8, 128)}, {"block": (64, 64)}):
        assert ask(1000, **other) == Engine("flex")
    file.write_text(file.read_text().replace('"flash"', '"flush"'))
    with pytest.raises(saa.SAAError, match=r"engine='flush'; choose one of: triton, flex, flash"):
        read_table(file)


def test_flash_says_where_it_does_not_serve():
    assert "model is on cpu" in engines.flash_unavailable(torch.device("cpu"), (128, 128))


def test_one_padded_pass_serves_shorter_texts(model):
    """What a captured graph does: the bucket is computed, the true length comes from the device."""
    short, device = IDS[:, :45], model.device
    live = torch.tensor([45, 45], dtype=torch.int32, device=device)
    with torch.inference_mode():
        found = model.hf(IDS.to(device), saa=saa.Call(policy("triton"), live=live)).logits[:, :45]
        expected = model.hf(short.to(device), saa=saa.Call(policy("triton"))).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(KernelError, match=r"live=.*'gather'"):
            model.hf(IDS.to(device), saa=saa.Call(policy("gather"), live=live))


@pytest.mark.parametrize(("length", "size"), [(1, 256), (256, 256), (257, 512), (1100, 1280)])
def test_buckets_of_graphs(length, size):
    assert bucket_for(length) == size


def test_graphs_say_where_they_cannot_be_captured(tiny):
    with pytest.raises(KernelError, match="device='cpu' has no graphs"):
        Captured(saa.attach(tiny()))
