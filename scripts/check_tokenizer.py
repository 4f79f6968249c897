#!/usr/bin/env python3
"""Compares Tailor's tokenizer with HF tokenizers, id for id, on generated strings. Exit code 1 on any difference.

    python scripts/check_tokenizer.py --tailor build/cpu/tailor --model MODEL --tokenizer tokenizer.json [--count 20000]

MODEL is what `tailor tokenize` opens (a HF directory or a GGUF file); --tokenizer defaults to MODEL/tokenizer.json.
transformers 5 reads SmolLM2's tokenizer out of a GGUF file without the splitting of digits that the model's own
tokenizer.json has; --digits puts it back before the comparison.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

SENTENCES = [
    "The quick brown fox doesn't jump over 13 lazy dogs; they'll've gone by 9:45 p.m., I'D SAY!",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich – für 1.234,50 €.",
    "Portez ce vieux whisky au juge blond qui fume : l'été, ça n'est qu'à Noël…",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia; ¿cuántos? ¡Ñandú!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. 15-е число.",
    "Τάχιστη αλώπηξ βαφής ψημένη γη, δρασκελίζει υπέρ νωθρού κυνός.",
    "いろはにほへと ちりぬるを。東京タワーは３３３メートルです。",
    "敏捷的棕色狐狸跳过了懒狗，一共花了２０２４年的第１２个月。𠮷野家、㐂。",
    "다람쥐 헌 쳇바퀴에 타고파. 가각힣 ㄱㄴㄷ 각",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق ١٢٣",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश १२३",
    "นายสังฆภัณฑ์ เฮงพิทักษ์ฝั่ง ผู้เฒ่าซึ่งมีอาชีพเป็นฅนขายฃวด ๑๒๓",
    "Tiếng Việt: Do bạch kim rất quý nên sẽ dùng để lắp vô xương.",
    "İstanbul'da ığüşöç, I'M İ'S 'ſ 'Ll 'RE",
]
CODE = [
    "def f(x: int) -> str:\n    return f'{x:>08b}'  # comment\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) {\r\n    a[i] += b[i] * 0x1F;\r\n}\r\n",
    "SELECT * FROM t WHERE a <> 'b''c' AND d >= 10;\n",
    '{"key": [1, 2.5e-10, null, true], "\\u00e9": "\\n"}',
    "#!/bin/sh\nset -eu; echo \"$HOME\" | sed -e 's/[^a-z]*//g' >&2 && exit 0\n",
    "\\begin{align}\n  e^{i\\pi} + 1 &= 0 \\\\\n\\end{align}",
]
EMOJI = ["😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "1️⃣", "🧑🏿‍🚀", "☕", "🫠", "🪿", "🫩"]
MARKS = ["e\u0301", "a\u0308\u0323", "\u1e9b\u0323", "o\u0302\u0323\u0301", "\u1100\u1161\u11a8", "\u0344", "\u212b", "\ufb01", "\u0958"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\n\n", "   ", "\u00a0", "\u3000", "\u2009", "\u200b", "\u180e", "\u0085", "\u2028", "\x0b", "\x0c", "\x1c", "\ufeff"]
PIECES = ["'s", "'S", "'t", "'RE", "'ll", "'", "''", "-", "--", "...", "!?", "_", "1", "12", "123", "1234", "²", "½", "Ⅷ", "<|", "|>", "<", "im_end", "\x01", "\x7f"]
# Assigned by Unicode 15 to 17 or in none, where tables of different age differ.
YOUNG = [(0x0897, 0x089F), (0x1ABF, 0x1AEF), (0x10D40, 0x10D8F), (0x11380, 0x113E2), (0x11F00, 0x11F5A), (0x1E4D0, 0x1E5FF), (0x31350, 0x323AF), (0x2EBF0, 0x2EE5D), (0x1CC00, 0x1CEB3)]


def random_character(rng: random.Random) -> str:
    kind = rng.randrange(8)
    if kind == 0:
        first, last = rng.choice(YOUNG)
        return chr(rng.randint(first, last))
    last = [0x7F, 0x7F, 0xFF, 0x24F, 0x2FFF, 0xD7FF, 0x1FFFF, 0x10FFFF][kind]
    while True:
        value = rng.randint(1, last)
        if not 0xD800 <= value < 0xE000:
            return chr(value)


def random_bytes(rng: random.Random, length: int) -> bytes:
    """Bytes, most of which are no UTF-8: cut and overlong sequences, surrogates, lone continuation bytes."""
    parts = [b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\x80", b"\xe0\x80", b"\xf8\x88"]
    out = b""
    while len(out) < length:
        kind = rng.randrange(3)
        if kind == 0:
            out += rng.choice(parts)
        elif kind == 1:
            out += random_character(rng).encode()
        else:
            out += bytes(rng.randint(1, 255) for _ in range(rng.randint(1, 8)))
    return out.replace(b"\0", b"\1")


def mixture(rng: random.Random, special: list, length: int) -> str:
    out = []
    for _ in range(length):
        kind = rng.randrange(10)
        if kind < 3:
            text = rng.choice(SENTENCES + CODE)
            begin = rng.randrange(len(text))
            out.append(text[begin : begin + rng.randint(1, 12)])
        elif kind == 3 and special:
            out.append(rng.choice(special))
        else:
            out.append(rng.choice([EMOJI, MARKS, SPACES, SPACES, PIECES, [random_character(rng)]][kind % 6]))
    return "".join(out)


def long_strings(rng: random.Random) -> list:
    """Strings that a quadratic algorithm or a recursing regular expression does not survive."""
    return [
        ("long", text.encode())
        for text in [
            "a" * 1_000_000,
            " " * 1_000_000,
            "\n" * 300_000,
            " \n" * 200_000 + "x",
            "1" * 300_000,
            "!" * 300_000 + "\r\n" * 1000,
            "ab" * 300_000,
            "\u4e00" * 200_000,
            "é" * 200_000,
            "".join(chr(rng.randint(97, 122)) for _ in range(1_000_000)),
            "".join(SENTENCES) * 600,
            "".join(rng.choice(SENTENCES + CODE) for _ in range(10_000)),
            ("a" + "\u0301\u0323" * 1000) * 50,
            "'" * 100_000 + "s" * 100_000,
        ]
    ] + [("long", random_bytes(rng, 500_000))]


def strings(count: int, seed: int, special: list, long: bool = True) -> list:
    """(kind, bytes), reproducibly; no string has a zero byte."""
    rng = random.Random(seed)
    fixed = [""] + SENTENCES + CODE + EMOJI + MARKS + SPACES + PIECES + special
    out = [("fixed", text.encode()) for text in fixed][:count]
    if long:
        out += long_strings(rng)
    makers = {
        "natural": lambda: " ".join(rng.choice(SENTENCES) for _ in range(rng.randint(1, 3))).encode(),
        "code": lambda: "".join(rng.choice(CODE) for _ in range(rng.randint(1, 3))).encode(),
        "emoji": lambda: "".join(rng.choice(EMOJI + SPACES) for _ in range(rng.randint(1, 12))).encode(),
        "marks": lambda: "".join(rng.choice(MARKS + ["x", "\u0301", "\u0327", "\u05b0", "\u094d"]) for _ in range(rng.randint(1, 12))).encode(),
        "characters": lambda: "".join(random_character(rng) for _ in range(rng.randint(1, 30))).encode(),
        "spaces": lambda: "".join(rng.choice(SPACES + ["a", "1", "."]) for _ in range(rng.randint(1, 16))).encode(),
        "special": lambda: "".join(rng.choice((special or ["<s>"]) + SPACES + ["a", "é", "_"]) for _ in range(rng.randint(1, 9))).encode(),
        "mixture": lambda: mixture(rng, special, rng.randint(1, 40)).encode(),
        "bytes": lambda: random_bytes(rng, rng.randint(1, 60)),
    }
    names = list(makers)
    while len(out) < count:
        name = names[len(out) % len(names)]
        out.append((name, makers[name]()))
    return out


def load_reference(path: pathlib.Path, digits: bool):
    import tokenizers

    document = json.loads(path.read_text())
    document["truncation"] = document["padding"] = None
    if digits:
        split = {"type": "Digits", "individual_digits": True}
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, document["pre_tokenizer"]]}
    return tokenizers.Tokenizer.from_str(json.dumps(document))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tailor", default="build/cpu/tailor")
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokenizer", type=pathlib.Path)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    reference = load_reference(arguments.tokenizer or pathlib.Path(arguments.model, "tokenizer.json"), arguments.digits)
    special = [token.content for token in reference.get_added_tokens_decoder().values()]
    texts = strings(arguments.count, arguments.seed, special)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "strings")
        file.write_bytes(b"".join(text + b"\0" for _, text in texts))
        command = [arguments.tailor, "tokenize", "--model", arguments.model, "--file", str(file)]
        result = subprocess.run(command + ["--null", "--raw", "--json"], stdout=subprocess.PIPE, check=True)
    rows = result.stdout.splitlines()
    if len(rows) != len(texts):
        print(f"{len(texts)} strings went in, {len(rows)} rows came out")
        return 1
    counts, wrong = collections.Counter(), collections.Counter()
    for (kind, text), row in zip(texts, rows):
        counts[kind] += 1
        ours = json.loads(row)
        expected = reference.encode(text.decode(errors="replace"), add_special_tokens=False).ids
        tokens = [reference.id_to_token(i) for i in expected]
        if ours["token_ids"] != expected or ours["tokens"] != tokens:
            wrong[kind] += 1
            if sum(wrong.values()) <= 5:
                print(f"{kind}: {text[:120]!r}\n  HF     {expected[:40]}\n  Tailor {ours['token_ids'][:40]}")
    for kind, count in counts.items():
        print(f"{kind:12} {count:6} strings, {wrong[kind]} differ")
    print(f"{len(texts)} strings, {sum(wrong.values())} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
