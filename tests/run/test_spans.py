"""Where tokens stand in a text: whatever the tokenizer says, in order, apart, and of the text."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from app.charts.token_labels import labels
from app.components.strips.text_strip import pieces
from saa_core.run.spans import last_whole, spans

CORPUS = ["The museum reopened in April. 中文 中文 日本語のテキスト、東京タワー🗼 ｶﾞｷﾞ ㍿ 猫"] * 3
WORDS = [
    "中文",
    "東京",
    "猫",
    "カフェ",
    "ﾃｽﾄ",
    "㍿",
    "ﬁ",
    "é",
    "é",
    "🗼",
    "👩\u200d👩\u200d👧",
    "🇯🇵",
    "museum",
    "a",
    "The",
    ".",
    "、",
    "▁",
    "##",
    "<s>",
    "Ġ",
]
SPACES = (" ", "  ", "\n", "\t", "\r\n", "\u3000", "\u00a0", "\u200b")
PARTS = st.sampled_from([*WORDS, *SPACES])
TEXTS = st.lists(PARTS | st.text(max_size=3), min_size=1, max_size=12).map("".join)
BYTES = pre_tokenizers.ByteLevel.alphabet()


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=BYTES))
    return made


def word_mark(*, nfkc: bool) -> Tokenizer:
    """As XLM-R's or Llama's: the start of a word is marked, and white space may be folded."""
    made = Tokenizer(models.Unigram())
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")] if nfkc else []
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=nfkc)
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>"
    )
    made.train_from_iterator(CORPUS, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    made.decoder = decoders.Metaspace()
    return made


def words() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[UNK]"])
    )
    return made


MADE = {
    "bytes": byte_level(),
    "marks": word_mark(nfkc=False),
    "folded marks": word_mark(nfkc=True),
    "words": words(),
}


def placed(tokenizer, text):
    """Tokens, their spans, and which were added."""
    found = tokenizer(
        text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    tokens, added = (
        tokenizer.convert_ids_to_tokens(found["input_ids"]),
        found["special_tokens_mask"],
    )
    return tokens, spans(text, tokens, found["offset_mapping"], added), added


def check(tokenizer, text):
    tokens, places, added = placed(tokenizer, text)
    own = [place for place, extra in zip(places, added, strict=True) if not extra]
    assert all(place == (0, 0) for place, extra in zip(places, added, strict=True) if extra)
    done, parts = 0, list[str]()
    for start, end in own:
        assert done <= start <= end <= len(text)
        parts += [text[done:start], text[start:end]]
        done = end
    assert "".join([*parts, text[done:]]) == text
    for token, (start, end) in zip(tokens, places, strict=True):
        if token.strip("▁") == "":
            assert not text[start:end].strip(), "a mark of a word has no character of the word"
    trace = SimpleNamespace(text=text, offsets=tuple(places), tokens=tuple(tokens))
    shown = pieces(trace)
    assert len(shown) == len(tokens) == len(labels(trace))
    drawn = "".join(
        piece
        for piece, (start, end) in zip(shown, places, strict=True)
        if start < end or piece != "·"
    )
    assert drawn == text[:done]


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_spans_are_in_order_and_apart(name, text):
    check(PreTrainedTokenizerFast(tokenizer_object=MADE[name]), text)


@pytest.mark.parametrize("name", ["smollm2", "minilm", "e5"])
@pytest.mark.model
def test_so_are_those_of_the_models_that_ship(name, request):
    tokenizer = request.getfixturevalue(name).tokenizer

    @settings(max_examples=150, deadline=None)
    @given(text=TEXTS)
    def every(text):
        check(tokenizer, text)

    every()


@pytest.mark.parametrize(
    ("text", "tokens", "given", "expected"),
    [
        ("中文 中文", "▁ 中文 ▁ 中文", [(0, 1), (0, 2), (3, 4), (3, 5)], ["", "中文", " ", "中文"]),
        ("a b", "▁a ▁b", [(0, 1), (2, 3)], ["a", "b"]),
        ("a b", "▁a ▁b", [(0, 1), (1, 3)], ["a", " b"]),
        ("a b", "a Ġb", [(0, 1), (1, 3)], ["a", " b"]),
        ("a  b", "a b", [(0, 1), (1, 4)], ["a", "b"]),
        ("   x", "▁▁ ▁x", [(0, 2), (2, 4)], ["  ", " x"]),
        ("朝に", "æľ Ŀ ãģ «", [(0, 1), (0, 1), (1, 2), (1, 2)], ["朝", "", "に", ""]),
        ("㍿だ", "▁株式 会社 だ", [(0, 1), (0, 1), (1, 2)], ["㍿", "", "だ"]),
        ("\u3000朝", "ãĢĢ æľĿ", [(0, 1), (1, 2)], ["\u3000", "朝"]),
    ],
)
def test_a_character_belongs_to_one_token(text, tokens, given, expected):
    tokens = tokens.split(" ")
    found = spans(text, tokens, given, [0] * len(tokens))
    assert [text[start:end] for start, end in found] == expected


def test_tokens_that_share_a_character_are_numbered_before_and_now():
    tokens = ("<s>", "æľ", "Ŀ", "ãģ«", "</s>")
    now = [(0, 0), (0, 1), (1, 1), (1, 2), (0, 0)]
    before = [(0, 0), (0, 1), (0, 1), (1, 2), (0, 0)]
    for offsets in (now, before):
        trace = SimpleNamespace(text="朝に", offsets=tuple(offsets), tokens=tokens)
        assert labels(trace) == ["<s>", "朝₁", "朝₂", "に", "</s>"]
        assert pieces(trace) == ["·", "朝", "·", "に", "·"]


def test_a_text_is_never_cut_inside_a_character():
    own = [(0, 1), (1, 2), (2, 2), (2, 2), (2, 3), (3, 3)]
    assert [last_whole(own, count) for count in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]
