"""`saa tune`, on the real models: searched on some texts, certified on others, resumed, never tested twice."""

import csv
import json
from xml.etree import ElementTree

import pytest

import saa_core as saa
from saa_core.certify.degradation import DegradationMeter
from saa_core.certify.tune import STUDY, TuneConfig, TuneTrial, candidates, split, tune
from saa_core.cli.main import main as cli
from saa_core.cli.main import parser_for
from saa_core.cli.tune import _texts
from saa_core.run.corpora import cut_windows

THINGS = ("mill", "bridge", "hall", "lighthouse", "station", "library", "harbour", "theatre")
ASKED = (("When was", "In 1846"), ("Where was", "In Riga"), ("By whom was", "Mr Renn"))
QUESTIONS = [
    f"{ask} the {size} {thing} built? [SEP] {answer}"
    for ask, answer in ASKED
    for thing in THINGS
    for size in ("old", "new")
]


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "mine.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text",), *((text,) for text in QUESTIONS)])
    return file


@pytest.fixture
def little(tiny, smollm2):
    """A language model that is quick; the real ones are tuned by the command line."""
    return saa.attach(tiny(vocab_size=len(smollm2.tokenizer)), smollm2.tokenizer)


@pytest.mark.model
def test_a_task_is_tuned_from_the_command_line(table, tmp_path, capsys):
    out = tmp_path / "tuned"
    command = ["tune", "--data", str(table), "--task", "questions", "--sla", "label_change=0.4"]
    command += ["--delta", "0.3", "--trials", "6", "--minutes", "1", "--out", str(out)]
    assert cli(command) == 0
    printed = capsys.readouterr().out
    stored = saa.load_policy(out / "policy.json")
    promise = stored.promise
    assert stored.policy is not None
    assert promise.chosen.work < 0.8, "half a dozen labels of fifteen may change"
    assert stored.command.startswith("saa tune --data")
    assert stored.data["searched"] + stored.data["certified"] == len(QUESTIONS)
    assert promise.texts == stored.data["certified"]
    assert str(promise) in printed
    assert printed.index("all ") < printed.index("no such texts"), "slices, empty ones last"
    rows = list(csv.DictReader((out / "front.csv").open()))
    assert rows[0]["policy"] == "dense"
    assert sum(row["chosen"] == "True" for row in rows) == 1
    about = json.loads((out / "front.json").read_text())
    assert len(about["trials"]) == 6
    front = [(row["work"], row["loss"]) for row in about["trials"] if row["front"]]
    for work, loss in front:
        assert not any(w <= work and x <= loss and (w, x) != (work, loss) for w, x in front)
    by_hand = {row["settings"]["tokens"] for row in about["trials"] if row["hand_set"]}
    assert {0.5, 0.7} < by_hand, "round shares, and the default"
    picture = ElementTree.parse(out / "front.svg").getroot()
    assert len(picture.findall("{*}circle")) >= 7 + 1 + 4  # points, the ring, the legend
    assert {row["name"] for row in json.loads((out / "slices.json").read_text())} >= {
        "all",
        "names",
    }

    arguments = [
        "classify",
        "--task",
        "questions",
        "--policy",
        str(out / "policy.json"),
        str(table),
    ]
    assert cli(arguments) == 0
    assert "policy file: " in capsys.readouterr().err

    assert cli(command) == 1
    assert "is finished" in capsys.readouterr().err


def test_an_interrupted_search_goes_on(little, novel, tmp_path):
    texts = cut_windows(little, novel[:12_000], 48)[:32]
    sla = saa.RiskLimit(perplexity=0.2, delta=0.4)
    config = TuneConfig(minutes=5, trials=3, candidates=2)

    def stop(step, done, total, remark):
        if step == "search":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(little, texts, sla, tmp_path, config, progress=stop)
    with pytest.raises(saa.PolicyError, match="other texts"):
        tune(little, texts[:-1], sla, tmp_path, config)
    steps = []
    tuned = tune(little, texts, sla, tmp_path, config, progress=lambda *step: steps.append(step))
    assert len(tuned.trials) == 4, "one before, three now"
    assert len({trial.policy for trial in tuned.trials}) == 4, "nothing is tried twice"
    assert all(trial.hand_set for trial in tuned.trials[:4])
    assert {step[0] for step in steps} == {"search", "certify"}
    assert len(tuned.promise.settings) <= 2
    losses = [trial.loss for trial in tuned.trials]
    assert tuned.promise.settings[0].policy == tuned.trials[losses.index(min(losses))].policy
    assert tuned.certified == len(texts) - tuned.searched
    with pytest.raises(saa.PolicyError, match="is finished"):
        tune(little, texts, sla, tmp_path, config)
    assert (tmp_path / STUDY).is_file()


@pytest.fixture
def tested(monkeypatch):
    """Every measurement that is made on texts, as (policy, number of texts)."""
    found = []
    real = DegradationMeter.of

    def of(self, policy, progress=None):
        found.append((policy, len(self)))
        return real(self, policy, progress)

    monkeypatch.setattr(DegradationMeter, "of", of)
    return found


def test_a_stopped_certification_goes_on_with_the_same_candidates(little, novel, tmp_path, tested):
    """Ctrl-C in the middle of the first test, then right after it, then while the results are written."""
    texts = cut_windows(little, novel[:24_000], 48)[:48]
    sla = saa.RiskLimit(missed_mass=0.9, delta=0.4)
    config = TuneConfig(minutes=5, trials=4, candidates=3, share=0.4)
    whole = tune(little, texts, sla, tmp_path / "whole", config)
    assert len(whole.promise.settings) == 3

    folder = tmp_path / "stopped"
    certifying = whole.certified

    def interrupted(self, policy, progress=None, real=DegradationMeter.of):
        if len(self) == certifying:
            raise KeyboardInterrupt
        return real(self, policy, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DegradationMeter, "of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(little, texts, sla, folder, config)

    def stop(step, done, total, remark):
        if step == "certify":
            raise KeyboardInterrupt

    other = TuneConfig(minutes=5, trials=4, candidates=1, share=0.4)
    tested.clear()
    for _ in range(2):  # one more test each time; nothing is searched
        with pytest.raises(KeyboardInterrupt):
            tune(little, texts, sla, folder, other, progress=stop)
    assert [policy for policy, _ in tested] == [
        setting.policy for setting in whole.promise.settings[:2]
    ]

    def full(tuned):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        tune(little, texts, sla, folder, other, write=full)
    written = []
    tuned = tune(little, texts, sla, folder, other, write=written.append)
    assert [policy for policy, _ in tested] == [
        setting.policy for setting in whole.promise.settings
    ], "each candidate is measured once, whatever is in between"
    assert {count for _, count in tested} == {whole.certified}
    assert tuned == written[0] == whole
    with pytest.raises(saa.PolicyError, match="is finished"):
        tune(little, texts, sla, folder, config)


def test_what_is_searched_reaches_every_knob(little, novel, tmp_path):
    texts = cut_windows(little, novel[:12_000], 48)[:28]
    config = TuneConfig(minutes=5, trials=40, candidates=1)
    tuned = tune(little, texts, saa.RiskLimit(missed_mass=0.4, delta=0.4), tmp_path, config)
    drawn = [trial.policy for trial in tuned.trials if not trial.hand_set]
    assert {policy.block for policy in drawn} == {(32, 16), (32, 32), (16, 16)}
    assert {policy.budget_over for policy in drawn if policy.budget} == {"layer", "call"}
    assert {policy.guard for policy in drawn} >= {None, saa.Guard(0.05)}
    assert all(policy.granularity == "block" for policy in drawn)


def test_the_parts_share_no_text():
    found, rest = split(
        ["One text.", "one  TEXT.", *(f"text {i}" for i in range(39)), " "], TuneConfig()
    )
    assert len(found) + len(rest) == 40
    assert not set(found) & set(rest)
    again, _ = split(
        ["One text.", "one  TEXT.", *(f"text {i}" for i in range(39)), " "], TuneConfig()
    )
    assert again == found
    with pytest.raises(saa.TextError, match="8 of each are needed"):
        split(["a", "b", "c"], TuneConfig())


def test_candidates_are_within_the_limit_safest_first():
    trials = [
        TuneTrial(
            saa.Policy(mass=0.99 - i / 100),
            loss=i / 1000,
            work=1 - i / 50,
            front=True,
            hand_set=False,
        )
        for i in range(20)
    ]
    sla = saa.RiskLimit(perplexity=0.0115)
    chosen = candidates(trials[::-1], sla, 4)
    assert [trial.loss for trial in chosen] == [0.0, 0.003, 0.007, 0.01]
    assert candidates(trials[15:], sla, 4) == [trials[15]], "the safest one is tried all the same"


def test_windows_are_whole_and_lie_behind_each_other(smollm2, minilm, novel):
    for model in (smollm2, minilm):
        found = cut_windows(model, novel[:3_000], 32)
        at = 0
        for part in found:
            at = novel.index(part, at) + len(part)
        assert all(abs(len(model.tokenizer(part)["input_ids"]) - 32) <= 2 for part in found)
        with pytest.raises(saa.TextError, match="fewer than one window"):
            cut_windows(model, "Too short.", 32)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--sla", "regret=0.1"], "label_change, missed_mass, perplexity"),
        (["--sla", "perplexity"], "perplexity=0.01"),
        (["--sla", "perplexity=2"], "perplexity=2.0"),
        (["--sla", "perplexity=0.1", "--delta", "0"], "delta=0.0"),
        (["--sla", "label_change=0.1"], "--task"),
        (["--sla", "perplexity=0.1", "--minutes", "0"], "minutes=0.0"),
        (["--sla", "perplexity=0.1", "--data", "gone.csv"], "gone.csv"),
        (["--sla", "perplexity=0.1", "--column", "body"], "'body' is missing"),
        (["--sla", "perplexity=0.1", "--model", "minilm"], "encoder"),
    ],
)
def test_refusals_are_one_sentence(arguments, sentence, table, tmp_path, capsys, smollm2):
    command = ["tune", "--data", str(table), "--out", str(tmp_path / "out"), *arguments]
    assert cli(command) == 1
    errors = capsys.readouterr().err
    assert sentence in errors
    assert "Traceback" not in errors


def test_long_texts_of_a_table_are_cut_and_said(little, tmp_path, capsys):
    """The command's reading: what the search gets."""
    file = tmp_path / "mine.tsv"
    file.write_text("id\tsay\n1\tshort\n2\t\n3\t" + "word " * 2000 + "\n4\tmore\n", "utf-8")
    given = ["tune", "--data", str(file), "--sla", "perplexity=0.1", "--out", "x", "--text", "say"]
    options = parser_for(["tune"]).parse_args(given)
    first, long, last = _texts(little, [file], saa.RiskLimit(perplexity=0.1), options)
    assert (first, last) == ("short", "more")
    assert len(little.tokenizer(long)["input_ids"]) in range(1000, 1025)
    assert capsys.readouterr().err.splitlines() == [
        "saa: mine.tsv: UTF-8, separated by tabs, 4 rows",
        "saa: mine.tsv: 1 row has no text: left out (row 2)",
        "saa: 1 of 3 texts is longer than 1,024 tokens and cut there; the first is mine.tsv, row 3",
    ]
    options.cut = False
    with pytest.raises(saa.TextError, match=r"mine\.tsv, row 3 has 2,001 tokens, and 1,024 is"):
        _texts(little, [file], saa.RiskLimit(perplexity=0.1), options)
