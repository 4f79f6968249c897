#!/usr/bin/env python3
"""Writes tests/golden/text/: small tokenizers of four kinds, and what HF tokenizers and transformers make of texts.

  NAME.json        a tokenizer.json: smollm, llama3, qwen2 (pre-tokenised as those models do) and mixed (the rest)
  NAME.cases.json  [{"bytes": hex, "ids", "with_special", "decoded", "plain"}]: ids without and with special tokens, and
                   the text decoded from the latter with and without special tokens
  chat.json        templates by name with conversations, their rendered text, ids and (where the template can mark
                   them) the mask of the assistant's tokens, by the tokenizer smollm

The templates of Qwen2.5 and Qwen3 are those that TRL carries (Apache License 2.0).

    python scripts/golden/make_text_goldens.py [--out tests/golden/text]
"""

import argparse
import json
import pathlib
import sys

import tokenizers
import transformers
import trl
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import check_tokenizer

VOCAB_SIZE = 1100
NUM_CASES = 160
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = {
    "smollm": [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)],
    "llama3": [AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<|im", normalized=False)],
    "qwen2": [AddedToken("caf\u00e9", normalized=True), AddedToken("e\u0301t", normalized=True), AddedToken("\u00e9\u20ac", normalized=False)],
    "mixed": [
        AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("wordy", normalized=False),
        AddedToken("  ", normalized=False),
    ],
}
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
MIXED = [
    r"\p{N}{1,3}",
    r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+".encode().decode("unicode_escape"),
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def isolated(pattern: str):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def byte_level(use_regex: bool, add_prefix_space: bool = False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


PRE_TOKENIZERS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level(True)],
    "llama3": [isolated(LLAMA3), byte_level(False)],
    "qwen2": [isolated(QWEN2), byte_level(False)],
    "mixed": [*map(isolated, MIXED), pre_tokenizers.Digits(individual_digits=False), byte_level(True, True)],
}


def build_tokenizer(name: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[name])
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[] if name == "qwen2" else SPECIAL,  # Qwen's stand behind the vocabulary
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(check_tokenizer.SENTENCES + check_tokenizer.CODE + check_tokenizer.EMOJI, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(ADDED[name])
    post_processor = processors.ByteLevel(trim_offsets=False)
    if name in ("llama3", "mixed"):
        end = " <|im_end|>" if name == "mixed" else ""
        ids = [(token, tokenizer.token_to_id(token)) for token in ("<|endoftext|>", "<|im_end|>")]
        template = processors.TemplateProcessing(single="<|endoftext|> $A" + end, special_tokens=ids)
        post_processor = processors.Sequence([post_processor, template])
    tokenizer.post_processor = post_processor
    return tokenizer


def tokenizer_cases(name: str, tokenizer: tokenizers.Tokenizer) -> list:
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    special += ["a word here", "sword wordy word_ word\u0301", " <left>", "<right> \n x", "cafe\u0301", "\u00e9t"]
    texts = [(kind, text) for kind, text in check_tokenizer.strings(600, 7, special, long=False)]
    chosen = [text for kind, text in texts if kind == "fixed" and len(text) < 60]
    rest = [text for kind, text in texts if kind != "fixed" and len(text) < 100]
    chosen = chosen[:: max(1, len(chosen) // 50)] + [text.encode() for text in special] + [b"\0a\0", b"\xf0\x9f\x98"]
    cases = []
    for text in chosen + rest[: NUM_CASES - len(chosen)]:
        string = text.decode(errors="replace")
        ids = tokenizer.encode(string).ids
        cases.append(
            {
                "bytes": text.hex(),
                "ids": tokenizer.encode(string, add_special_tokens=False).ids,
                "with_special": ids,
                "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                "plain": tokenizer.decode(ids, skip_special_tokens=True),
            }
        )
    return cases


# SmolLM2's template, word for word; Qwen2's differs in the message.
DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nMESSAGE<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The same text as PLAIN, with transformers' marks around what the model writes.
MARKED = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}"
)


def first_qwen3(template: str) -> str:
    """Qwen3's template as it came out: today's differs in how it treats content that is no string."""
    string_content = template[template.index("    {%- if message.content is string %}") : template.index('    {%- if (message.role == "user")')]
    split_today = "{%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    set_today = "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}"
    indent = "\n                "
    changes = [
        (" and message.content is string and not(", " and not("),
        (string_content, ""),
        ("'\\n' + content + '<|im_end|>' + '\\n' }}", "'\\n' + message.content + '<|im_end|>' + '\\n' }}"),
        ("        {%- set reasoning_content = '' %}\n", "        {%- set content = message.content %}\n        {%- set reasoning_content = '' %}\n"),
        ("message.reasoning_content is string", "message.reasoning_content is defined and message.reasoning_content is not none"),
        ("if '</think>' in content", "if '</think>' in message.content"),
        (split_today + indent + set_today, set_today.replace("= content", "= message.content") + indent + split_today.replace("= content", "= message.content")),
        ("{{- content }}", "{{- message.content }}"),
    ]
    for old, new in changes:
        assert template.count(old) == 1, (old, template.count(old))
        template = template.replace(old, new)
    return template


def conversation(*turns: str) -> list:
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


CONVERSATIONS = [
    conversation("u:What is 7 + 5?"),
    conversation("s:Be brief.", "u:Hi", "a:Hello! How are you?", "u:Fine, 12 apples.", "a:Good."),
    conversation("u:", "a:"),
    conversation("u:  two spaces \n", "a:\n\nnewlines first\n", "u:été 日本 👩‍👩‍👧‍👦", "a: leading space"),
    conversation("u:a <|im_end|> inside", "a:<|im_start|>user\nfake<|im_end|>\n"),
    conversation("u:a", "s:late system", "u:b", "a:c"),
    conversation("u:Use it.", "a:calling", "t:first result", "t:second", "a:done", "u:<tool_response>x</tool_response>", "a:<think>\nso\n</think>\n\nend"),
    conversation("u:q", "a:<think>\n\nold\n\n</think>\n\nshort", "u:r", "a:<think>new\nthought</think>answer"),
    conversation("u:q", "a:no reasoning", "a:<think>x</think> two </think>\n three"),
    conversation("a:assistant first", "t:tool", "u:end"),
    conversation("s:only a system message"),
]


def chat_cases(tokenizer: tokenizers.Tokenizer) -> list:
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    folder = pathlib.Path(trl.__file__).parent / "chat_templates"
    qwen3 = (folder / "qwen3.jinja").read_text()
    templates = {
        "SmolLM2": DEFAULT_SYSTEM.replace("MESSAGE", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        "Qwen2": DEFAULT_SYSTEM.replace("MESSAGE", "You are a helpful assistant."),
        "no default": PLAIN,
        "no default, set prompt": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}" + PLAIN,
        "Qwen2.5": (folder / "qwen2_5.jinja").read_text(),
        "Qwen3-2507": (folder / "qwen3_instruct_2507.jinja").read_text(),
        "Qwen3": qwen3,
        "first Qwen3": first_qwen3(qwen3),
    }
    out = []
    for name, template in templates.items():
        cases = []
        for messages in CONVERSATIONS:
            case = {"messages": messages}
            arguments = dict(chat_template=template, tokenize=False)
            case["text"] = wrapped.apply_chat_template(messages, **arguments)
            case["prompt"] = wrapped.apply_chat_template(messages, add_generation_prompt=True, **arguments)
            case["ids"] = tokenizer.encode(case["text"], add_special_tokens=False).ids
            if name == "no default":
                marked = wrapped.apply_chat_template(
                    messages, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
                )
                assert marked["input_ids"] == case["ids"]
                case["mask"] = marked["assistant_masks"]
            cases.append(case)
        out.append({"name": name, "template": template, "cases": cases})
    return out


def write(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/text"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    versions = {module.__name__: module.__version__ for module in (tokenizers, transformers, trl)}
    for name in PRE_TOKENIZERS:
        tokenizer = build_tokenizer(name)
        (out / f"{name}.json").write_text(tokenizer.to_str() + "\n")
        write(out / f"{name}.cases.json", {"versions": versions, "cases": tokenizer_cases(name, tokenizer)})
    write(out / "chat.json", {"versions": versions, "templates": chat_cases(build_tokenizer("smollm"))})


if __name__ == "__main__":
    main()
