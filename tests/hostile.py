"""Two hundred texts that try to break, inject or confuse, each distinct, the same on every machine.

What would be markup carries the attribute ``data-hostile`` or sets ``window.hacked``, so that a page can be asked
whether any of it was taken for markup.
"""

import random
import sys

MARK = "data-hostile"
COUNT = 200
LONG = "A ship that sailed in winter came home in spring. " * 20_000
"""One megabyte."""

MARKUP = [
    "<script {0}>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1 {0}>",
    "<svg onload=window.hacked=1 {0}><circle r=9></svg>",
    "<iframe srcdoc='<p {0}>in</p>' {0}></iframe>",
    "<a href='javascript:window.hacked=1' {0}>come</a>",
    "<style {0}>*{{display:none}}</style>",
    "<details open ontoggle=window.hacked=1 {0}>x</details>",
    "<math><mi {0} xlink:href='javascript:window.hacked=1'>m</mi></math>",
    "</script><script {0}>window.hacked=1</script>",
    "</textarea><b {0}>bold</b>",
    "<!--><b {0}>--></b>",
    "<![CDATA[<b {0}>c</b>]]>",
    "&lt;b {0}&gt;twice&lt;/b&gt;",
    "<base href='//x.invalid/' {0}>",
    "<form action=//x.invalid {0}><button>go</button></form>",
    '" onmouseover="window.hacked=1" {0} x="',
    "' autofocus onfocus='window.hacked=1' {0} '",
    "`${{window.hacked=1}}` {0}",
    "{{{{constructor.constructor('window.hacked=1')()}}}} {0}",
    "<template><b {0}>t</b></template>",
]
MARKDOWN = [
    "# A heading",
    "[a link](javascript:window.hacked=1)",
    "![a picture](https://x.invalid/p.png)",
    "| a | b |\n| - | - |\n| 1 | 2 |",
    "```js\nwindow.hacked=1\n```",
    "- [ ] a task\n- [x] done",
    ":material/home: :red[red] :rocket: :blue-background[b]",
    "***bold* _and_ ~~gone~~** `code`",
    "<https://x.invalid>",
    "[^1]: a note\n\nsee[^1]",
    "\\# \\* \\_ \\[ \\`",
    "> quoted\n>> twice",
]
LATEX = [
    r"$\frac{1}{0}$ costs $5",
    r"$$\href{javascript:window.hacked=1}{x}$$",
    r"\begin{matrix} a & b \\ c",
    r"$\def\x{\x\x}\x$",
    r"\(\url{https://x.invalid}\)",
    r"$\htmlClass{x}{\text{<b data-hostile>}}$",
    "$" * 50,
    r"\unicode{x1F600} \\ % comment",
]
CODE = [
    "'; DROP TABLE runs; --",
    "1 OR 1=1 UNION SELECT * FROM heads",
    "=HYPERLINK('https://x.invalid','x')",
    "+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "-2+3",
    "../../../../etc/passwd",
    "C:\\..\\..\\con",
    "file:///etc/passwd",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "%s %n %x {0} {name!r} {}",
    "$(reboot) `reboot` ; reboot & reboot | reboot",
    "\\x00 \\u0000 \\N{BULLET} %00 %0d%0a",
    "__import__('os').system('true')",
    "null undefined NaN Infinity -0 true",
    '{"tokens": [1, 2], "a": null}',
    "<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    "https://x.invalid/?a=1&b=<b data-hostile>#c",
]
SCRIPTS = [
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "שלום עולם, מה שלומך?",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก วันนี้เป็นอย่างไร",
    "안녕하세요 세계, 오늘은 어떠세요?",
    "こんにちは世界。今日はどうですか。",
    "你好，世界，今天怎么样？",
    "ﾊﾝｶｸ ｶﾅ と ＦＵＬＬ ｗｉｄｔｈ ① ㍻ ㌔",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",
    "ሰላም ልዑል",
    "မင်္ဂလာပါ ကမ္ဘာ",
    "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕋𝕖𝕩𝕥 𝒶𝓃𝒹 𝟙𝟚𝟛",
    "ｈｔｔｐｓ：／／ｘ．ｉｎｖａｌｉｄ",
    "Å Å Å ﬁ ﬀ ſ ı İ ß ẞ",
]
ODD = {
    "nothing": ["", " ", "\n\t\r ", "\u3000\u2003", "\t" * 200],
    "nul": ["a\0b", "\0", "\0" * 40, "end\0"],
    "surrogate": ["\ud800", "a \udc00 b", "\udbff\udbff x", "ok then \udfff"],
    "bidi": ["\u202eevil\u202c text", "\u2066a\u2067b\u2069", "\u202a" * 30 + "deep", "a\u200fb\u200ec"],
    "control": ["\x1b[31mred\x1b[0m", "\x07\x08\x0b\x0c", "a\x85b\u2028c\u2029d", "\x7f\x9b"],
    "noncharacter": ["\ufeff", "\u200b\u200b", "\ufffe \uffff", "\U0010ffff", "\ufdd0 \U000e0041", "\ufff9a\ufffab\ufffb"],
    "emoji": [
        "👩‍👩‍👧‍👦" * 8,
        "👍🏽👍🏿👍🏻 " * 6,
        "🇯🇵🇩🇪🇧🇷🇺" * 5,
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "1️⃣#️⃣*️⃣ ☺︎☺️",
        "\u200d" * 20 + "👩",
    ],
    "combining": ["Z" + "\u0335\u0322\u0489" * 60, "e\u0301" * 30, "\u0301" * 60, "ก็" * 1 + "็" * 60],
    "token": ["a" * 600, "word" * 300, "-" * 500, "9" * 400, "ー" * 200],
    "megabyte": [LONG],
}  # fmt: skip


def texts() -> list[tuple[str, str]]:
    """(kind, text), COUNT of them; after the plain ones, mixtures of two kinds each."""
    plain = [("markup", text.format(MARK)) for text in MARKUP]
    plain += [("markdown", text) for text in MARKDOWN] + [("latex", text) for text in LATEX]
    plain += [("code", text) for text in CODE] + [("script", text) for text in SCRIPTS]
    plain += [(kind, text) for kind, own in ODD.items() for text in own]
    found = dict.fromkeys(plain)
    draw = random.Random(0)
    short = [(kind, text) for kind, text in plain if 0 < len(text) < 200]
    while len(found) < COUNT:
        (first, one), (second, two) = draw.sample(short, 2)
        found[f"{first} and {second}", one + draw.choice(" \n\t") + two] = None
    assert len(found) == len({text for _, text in found}) == COUNT, len(found)
    return list(found)


if __name__ == "__main__":
    for kind, text in texts():
        sys.stdout.write(f"{kind:24} {text[:60]!r}\n")
