"""Clients that exist work as they are, over the real small models."""

import base64
import struct

import httpx2
import numpy as np
import pytest

import saa_core as saa
import saa_core.loading
from saa_core.cli.main import main
from saa_core.run.generate import generate
from saa_core.serve.client import BackendError, Client
from tests.serve.serving import Running

openai = pytest.importorskip("openai")
triton = pytest.importorskip("tritonclient.http")
SPAM = ["You won a free prize, call now", "See you at lunch tomorrow?", "Ok."]


@pytest.fixture(scope="module")
def client(served: Running) -> "openai.OpenAI":
    return openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0)


def test_openai_models(client):
    assert {model.id for model in client.models.list()} == {"spam", "minilm", "smollm2"}
    assert client.models.retrieve("spam").id == "spam"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")


def test_openai_completions(client, smollm2):
    prompt = "The capital of France is"
    whole = client.completions.create(model="smollm2", prompt=prompt, max_tokens=5)
    expected = "".join(generate(smollm2, prompt, smollm2.spec.policy, max_new_tokens=5))
    assert whole.choices[0].text == expected
    assert whole.choices[0].finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 5)
    stream = client.completions.create(
        model="smollm2",
        prompt=prompt,
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"saa": {"policy": "dense"}},
    )
    *parts, last = list(stream)
    assert "".join(part.choices[0].text for part in parts) == expected
    assert last.usage.completion_tokens == 5
    assert parts[-1].saa["policy"] == "dense"
    stopped = client.completions.create(model="smollm2", prompt=prompt, max_tokens=5, stop=["."])
    assert stopped.choices[0].text == expected.split(".")[0]
    assert stopped.choices[0].finish_reason == "stop"
    guarded = client.completions.create(
        model="smollm2",
        prompt=prompt,
        max_tokens=1,
        extra_body={"saa": {"policy": {"guard": {"missed_mass": 0.05}}}},
    )
    assert guarded.saa["guard"]["limit"] == 0.05
    assert guarded.saa["guard"]["bound"] <= 0.05 or guarded.saa["fallback"] == "guard"


def test_openai_chat(client):
    messages = [{"role": "user", "content": "Say hi"}]
    whole = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=3)
    stream = client.chat.completions.create(
        model="smollm2", messages=messages, max_tokens=3, stream=True
    )
    parts = [part.choices[0].delta.content or "" for part in stream]
    assert whole.choices[0].message.role == "assistant"
    assert "".join(parts) == whole.choices[0].message.content
    drawn = [
        client.chat.completions.create(
            model="smollm2", messages=messages, max_tokens=3, temperature=1.5, seed=seed
        )
        .choices[0]
        .message.content
        for seed in (1, 1)
    ]
    assert drawn[0] == drawn[1]


def test_openai_embeddings(client, minilm):
    found = client.embeddings.create(model="minilm", input=SPAM)
    vectors = np.array([each.embedding for each in found.data])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    policy = {"mass": 0.9, "guard": {"missed_mass": 0.05}}
    guarded = client.embeddings.create(
        model="minilm", input=SPAM[:1], extra_body={"saa": {"policy": policy}}
    )
    assert np.dot(guarded.data[0].embedding, vectors[0]) > 0.95
    trace = saa.run(minilm, SPAM[0])
    mean = trace.hidden.mean(0)
    dense = client.embeddings.create(
        model="minilm", input=SPAM[0], extra_body={"saa": {"policy": "dense"}}
    )
    np.testing.assert_allclose(dense.data[0].embedding, mean / np.linalg.norm(mean), atol=1e-5)


def test_openai_errors_are_its_own(client):
    with pytest.raises(openai.NotFoundError, match="choose one of"):
        client.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="does not write"):
        client.completions.create(model="spam", prompt="x")
    with pytest.raises(openai.BadRequestError, match="one answer"):
        client.completions.create(model="smollm2", prompt="x", n=2)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}],
        )


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client(served, binary):
    client = triton.InferenceServerClient(f"127.0.0.1:{served.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("spam")
    assert client.get_model_metadata("spam")["outputs"][0]["name"] == "label"
    own = triton.InferInput("text", [3], "BYTES")
    own.set_data_from_numpy(np.array([t.encode() for t in SPAM], object), binary_data=binary)
    wanted = [
        triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "probabilities")
    ]
    found = client.infer("spam", [own], outputs=wanted)
    probabilities = found.as_numpy("probabilities")
    labels = [x.decode() if isinstance(x, bytes) else x for x in found.as_numpy("label").tolist()]
    assert probabilities.shape == (3, 2)
    task = served.service.catalog.get("spam").runs
    expected = task.classify(task.encode(SPAM, cut=False), task.policy, lambda: False)
    assert labels == [each.label for each in expected]
    np.testing.assert_allclose(
        probabilities, [list(each.probabilities.values()) for each in expected], atol=1e-5
    )
    with pytest.raises(triton.InferenceServerException, match="choose one of"):
        client.infer("nothing", [own])
    client.close()


def test_labels_in_the_shape_of_vllm(served):
    with httpx2.Client() as client:
        body = {"model": "spam", "input": SPAM}
        found = client.post(f"{served.address}/classify", json=body).json()
    assert [each["num_classes"] for each in found["data"]] == [2, 2, 2]
    for each in found["data"]:
        assert each["label"] == ("ham", "spam")[int(np.argmax(each["probs"]))]
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"]
    assert found["saa"]["side"] == "sparse"
    assert 0 < found["data"][0]["saa"]["token_share"] < 1


def test_embeddings_as_base64(served):
    body = {"model": "minilm", "input": "Ok.", "encoding_format": "base64"}
    found = served.ask("/v1/embeddings", body).json["data"][0]["embedding"]
    raw = base64.b64decode(found)
    assert sum(x * x for x in struct.unpack(f"<{len(raw) // 4}f", raw)) == pytest.approx(
        1, rel=1e-4
    )


def test_own_client(served, smollm2, minilm):
    client = Client(served.address)
    assert client.status()["ready"]
    assert client.models()["spam"]["labels"] == ["ham", "spam"]
    text = "The quick brown fox jumps over the lazy dog."
    policy = saa.Policy(mass=0.9, force=(saa.Force(key=2),))
    ran = client.run("minilm", text, policy)
    here = saa.run(minilm, text, policy)
    assert ran.kept is None
    assert ran.trace.text == text
    np.testing.assert_array_equal(ran.trace.keep_map(3, 1), here.keep_map(3, 1))
    sides = client.compare("minilm", text, policy, damage="random")
    assert sides.dense.policy is None
    assert 0 <= sides.figures["embedding_cosine"] <= 1
    timings = client.measure("minilm", [16], policy, repeats=2)
    assert [len(timing.samples_ms) for timing in timings] == [2, 2]
    assert client.sweep("minilm", "Ok.")[0]["mass"] == 0.6
    effects = client.effects("minilm", "Ok.", 0, 1, saa.Policy(mass=1.0))
    assert {tuple(effect["keys"]) for effect in effects} == {(at, at) for at in range(4)}
    labelled = list(client.classify("spam", SPAM, batch=2))
    assert labelled[0].label in ("ham", "spam")
    written = "".join(client.generate("smollm2", "The capital of France is", max_new_tokens=3))
    assert written == "".join(
        generate(smollm2, "The capital of France is", smollm2.spec.policy, max_new_tokens=3)
    )
    with pytest.raises(saa.PolicyError, match="choose one of"):
        client.run("spam", text, "another")
    with pytest.raises(BackendError, match="does not answer"):
        Client("http://127.0.0.1:9").status()


def test_the_command_line_asks_a_backend(served, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(saa.loading, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    file, out = tmp_path / "text.txt", tmp_path / "run.saa"
    file.write_text("The quick brown fox jumps over the lazy dog.")
    given = ["--backend", served.address, "--model"]
    assert main(["run", str(file), *given, "minilm", "--mass", "0.9", "--out", str(out)]) == 0
    assert "policy: mass 0.9" in capsys.readouterr().out
    assert saa.Trace.load(out).policy.mass == 0.9
    table = tmp_path / "texts.csv"
    table.write_text("text\n" + "\n".join(f'"{text}"' for text in SPAM))
    monkeypatch.setenv("SAA_BACKEND", served.address)
    assert main(["classify", str(table), "--model", "spam", "--tokens", "0.5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SPAM)
    assert main(["run", str(file), *given, "minilm", "--gates", "x"]) == 1
    assert "--gates and --backend exclude each other" in capsys.readouterr().err
    assert main(["run", str(file), "--backend", "http://127.0.0.1:9"]) == 1
    assert "does not answer" in capsys.readouterr().err
