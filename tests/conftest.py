"""Shared fixtures: the real small models, small random ones, one served app; and which tests need which of them.

Marks decide what `scripts/check quick|test|all` runs. A test that takes one of the fixtures below is marked here; one
that loads a model or starts Chromium in another way marks itself, and without models (SAA_NO_MODELS=1, as `quick` runs)
a test that forgot to fails with a sentence.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.triton import interpreted  # before anything imports Triton  # isort: skip
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

import saa_core as saa
from benchmarks.page.browser import CHROMIUM, serve
from saa_core.attention import profiles
from saa_core.data import fetch
from saa_core.store import Store

TINY = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
CONFIGS = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 16}),
    "gpt2": (GPT2Config, SPECIAL),
    "bert": (BertConfig, SPECIAL),
    "roberta": (RobertaConfig, SPECIAL),
    "xlm-roberta": (XLMRobertaConfig, SPECIAL),
    "distilbert": (DistilBertConfig, SPECIAL),
    "modernbert": (
        ModernBertConfig,
        {**SPECIAL, "num_hidden_layers": 4, "local_attention": 40, "cls_token_id": 0}
        | {"sep_token_id": 2},
    ),
}
"""Configuration and what it needs beside TINY, per supported model type."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert")
MARKED_BY_FIXTURE = {
    "smollm2": "model",
    "minilm": "model",
    "e5": "model",
    "chromium": "browser",
    "exported": "slow",
}


def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", ())
    for name in MARKED_BY_FIXTURE.keys() & set(fixtures):
        item.add_marker(MARKED_BY_FIXTURE[name])


@pytest.fixture(scope="session", autouse=True)
def _no_models() -> Iterator[None]:
    """Without models nothing loads one; a test that does lacks a mark."""
    if os.environ.get("SAA_NO_MODELS") != "1":
        yield
        return
    real, pinned = fetch.fetch_model, set(fetch.models())

    def refuse(alias: str, *given: object) -> Path:
        if alias in pinned:
            pytest.fail(f"SAA_NO_MODELS=1, and this test loads {alias}: mark it `model`")
        return real(alias, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "fetch_model", refuse)
        yield


@pytest.fixture
def triton_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the Triton kernels run: a GPU, or the interpreter on a CPU; skips where there is neither."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not interpreted.INTERPRETED:
        pytest.skip('the extra "interpreter" is not installed (package triton)')
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never write into the user's store of traces."""
    os.environ["SAA_STORE"] = str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session", autouse=True)
def _no_profiles() -> Iterator[None]:
    """What a test computes does not depend on which machines were measured; one that is about that has
    profiles of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "folders", tuple)
        profiles.known.cache_clear()
        yield
    profiles.known.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _many_graphs() -> None:
    """The suite meets more kinds of heads and blocks in one process than a user's would."""
    torch._dynamo.config.recompile_limit = 64


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Work is shared out, also where tests run side by side with a thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smollm2() -> saa.Model:
    """SmolLM2 with real weights; fetched once if it is not in the cache yet."""
    return saa.load("smollm2", device="cpu")


@pytest.fixture(scope="session")
def minilm() -> saa.Model:
    """MiniLM-L6 with real weights; fetched once if it is not in the cache yet."""
    return saa.load("minilm", device="cpu")


@pytest.fixture(scope="session")
def e5() -> saa.Model:
    """multilingual-e5-small with real weights; fetched once if it is not in the cache yet."""
    return saa.load("e5", device="cpu")


@pytest.fixture(scope="session")
def novel() -> str:
    """A few thousand tokens of a public-domain novel that no gate was trained on."""
    return (fetch.assets() / "examples" / "persuasion.txt").read_text(encoding="utf-8")


@pytest.fixture
def tiny() -> Callable[..., torch.nn.Module]:
    """Makes a small random language model of a given architecture."""

    def make(name: str = "llama", **changes: object) -> torch.nn.Module:
        kind, own = CONFIGS[name]
        config = kind(**{**TINY, **own, **changes})
        auto = AutoModelForMaskedLM if name in ENCODERS else AutoModelForCausalLM
        return auto.from_config(config, attn_implementation="sdpa").eval()

    return make


@pytest.fixture(scope="session")
def chromium() -> None:
    """Skips where there is no Chromium, unless SAA_REQUIRE_BROWSER=1."""
    if CHROMIUM.exists():
        return
    if os.environ.get("SAA_REQUIRE_BROWSER") == "1":
        pytest.fail(f"SAA_REQUIRE_BROWSER=1, and {CHROMIUM} does not exist")
    pytest.skip(f"{CHROMIUM} does not exist")


@dataclass(frozen=True)
class Server:
    address: str
    store: Path
    log: Path


@pytest.fixture(scope="session")
def server(chromium: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app on a free loopback port, once for all tests: its models are loaded and warm only once."""
    folder = tmp_path_factory.mktemp("server")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # for the new process only
            patch.setenv("SAA_STORE", str(folder / "store"))
            served = stack.enter_context(serve(folder / "log.txt"))
        yield Server(served.address, folder / "store", folder / "log.txt")


@pytest.fixture
def address(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the app is, over a store that is empty at first and shared with this process."""
    monkeypatch.setenv("SAA_STORE", str(server.store))
    said = server.log.stat().st_size
    yield server.address
    store = Store(server.store)
    store.delete(*store.ids())
    for query in store.queries():
        store.save_query(query, None)
    new = server.log.read_bytes()[said:].decode(errors="replace")
    assert "Traceback" not in new, new[-3000:]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The quick brown fox jumps over the lazy dog, and nobody minds.", "utf-8")
    return file
