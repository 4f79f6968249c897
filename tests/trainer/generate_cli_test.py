#!/usr/bin/env python3
"""Properties of `tailor generate` as users meet them: results, codes, messages.

    generate_cli_test.py PROGRAM MODEL [NAME...]
"""

import json
import math
import pathlib
import struct
import subprocess
import sys

from program import expect, run_tests, test

KEYS = ["index", "prompt", "text", "token_ids", "logprobs", "finish_reason", "adapter"]


def golden_ids(model, name):
    """An int64 tensor of the model's golden.safetensors."""
    data = (model / "golden.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return list(struct.unpack(f"<{(end - begin) // 8}q", data[8 + length + begin : 8 + length + end]))


class Generate:
    def __init__(self, program, model, folder):
        self.model, self.folder = model, folder
        self.base = [str(program), "generate", "--model", str(model), "--dtype", "float32", "--threads", "1"]

    def run(self, *more, code=0, stdin=None):
        command = [*self.base, *map(str, more)]
        process = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=120)
        expect(process.returncode == code, f"code {code} of {more}, got {process.returncode}: {process.stderr}")
        return process

    def json(self, *more):
        out = [json.loads(line) for line in self.run(*more, "--json").stdout.splitlines()]
        for i, row in enumerate(out):
            expect(all(key in row for key in KEYS) and row["index"] == i, row)
            expect(len(row["logprobs"]) == len(row["token_ids"]), row)
        return out

    def rows(self, *rows):
        file = self.folder / "prompts.jsonl"
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return file

    def refused(self, *more, words):
        error = self.run(*more, code=2).stderr
        expect(error.count("\n") <= 2 and all(word in error for word in words), f"{words} in {error!r}")


@test
def greedy_ids_are_those_of_transformers(tool):
    prompt, expected = golden_ids(tool.model, "prompt_ids"), golden_ids(tool.model, "greedy_ids")
    file = tool.rows({"input_ids": prompt}, {"input_ids": prompt[:1]}, {"input_ids": prompt})
    for batch in (1, 3):
        rows = tool.json("--prompts", file, "--max-new-tokens", len(expected), "--batch-size", batch)
        expect(rows[0]["token_ids"] == expected and rows[2]["token_ids"] == expected, (rows[0], expected))
        expect(rows[0]["finish_reason"] == "length", rows[0])
        expect(rows[1]["token_ids"] != expected, "another prompt, other tokens")
        expect(all(-math.inf < p <= 0 for row in rows for p in row["logprobs"]), rows)


@test
def a_completion_that_the_positions_end_is_told(tool):
    file = tool.rows({"input_ids": [5] * 1020})
    process = tool.run("--prompts", file, "--max-new-tokens", 9, "--ignore-eos", "--json")
    expect("of 1020 tokens, leaves 4 of the model's 1024 positions" in process.stderr, process.stderr)
    expect(len(json.loads(process.stdout)["token_ids"]) == 4, process.stdout)
    process = tool.run("--prompts", file, "--max-new-tokens", 4, "--ignore-eos")
    expect("positions" not in process.stderr, process.stderr)


@test
def rows_are_read_in_every_format(tool):
    user = {"role": "user", "content": "2 and 3?"}
    more = [user, {"role": "assistant", "content": "5"}]
    file = tool.rows(
        {"prompt": "Ann has"},
        {"text": "Ann has"},
        {"messages": [user]},
        {"messages": more},
        {"prompt": [user]},
        "",
        {"input_ids": [5, 6]},
    )
    rows = tool.json("--prompts", file, "--max-new-tokens", 3, "--ignore-eos")
    expect(len(rows) == 6, rows)
    expect(rows[0]["prompt"] == "Ann has" and rows[0]["token_ids"] == rows[1]["token_ids"], rows)
    expect("2 and 3?" in rows[2]["prompt"] and rows[2]["prompt"].endswith("assistant\n"), rows[2])
    expect(rows[2] == {**rows[3], "index": 2} == {**rows[4], "index": 2}, "up to the last user turn")


@test
def chat_wraps_a_prompt_and_takes_a_system_message(tool):
    plain = tool.json("--prompt", "hello", "--chat", "--max-new-tokens", 2)[0]
    system = tool.json("--prompt", "hello", "--chat", "--system", "be brief", "--max-new-tokens", 2)[0]
    expect("<|im_start|>user\nhello<|im_end|>" in plain["prompt"], plain)
    expect("be brief" in system["prompt"] and "be brief" not in plain["prompt"], system)


@test
def a_single_prompt_prints_its_text_alone(tool):
    arguments = ["--prompt", "Ann has 12", "--max-new-tokens", 12, "--ignore-eos"]
    text = tool.json(*arguments)[0]["text"]
    expect(tool.run(*arguments).stdout == text + "\n", text)
    expect(tool.run("--prompt", "-", *arguments[2:], stdin="Ann has 12").stdout == text + "\n", "from standard input")


@test
def several_prompts_are_told_apart(tool):
    out = tool.run("--prompts", tool.rows({"prompt": "one\ntwo"}, {"prompt": "x" * 100}), "--max-new-tokens", 4).stdout
    expect("--- 1 of 2: one two\n" in out and "--- 2 of 2: " + "x" * 60 + " ...\n" in out, out)


@test
def a_stop_string_ends_the_text_before_it(tool):
    arguments = ["--prompt", "Ann has 12", "--max-new-tokens", 24, "--ignore-eos"]
    whole = tool.json(*arguments)[0]
    stop = whole["text"][3:5]
    row = tool.json(*arguments, "--stop", "never there", "--stop", stop)[0]
    expect(row["text"] == whole["text"][: whole["text"].index(stop)], (row, whole))
    expect(row["finish_reason"] == "stop", row)
    expect(row["token_ids"] == whole["token_ids"][: len(row["token_ids"])], row)
    expect(len(row["token_ids"]) < 24, row)


@test
def sampling_repeats_by_seed_and_does_not_depend_on_the_batch(tool):
    file = tool.rows(*[{"prompt": f"number {i}"} for i in range(5)])

    def ids(*more):
        rows = tool.json("--prompts", file, "--max-new-tokens", 10, "--ignore-eos", *more)
        return [row["token_ids"] for row in rows]

    sampled = ["--temperature", "1.5", "--top-k", 50]
    first = ids(*sampled)
    expect(first == ids(*sampled, "--batch-size", 1) == ids(*sampled, "--batch-size", 2), "batch size")
    expect(first != ids(*sampled, "--seed", 7), "another seed")
    expect(ids("--temperature", "1.5", "--top-k", 1) == ids(), "top-k 1 is greedy")


@test
def log_probabilities_do_not_depend_on_the_batch_to_the_last_digit(tool):
    # Alone a prompt has few tokens, for which other kernels are taken than for all of them together.
    file = tool.rows(*[{"input_ids": [(5 + 3 * i + 7 * j) % 280 for j in range(20)]} for i in range(5)])
    for compute in [], ["--compute-dtype", "float32"]:
        same = ["--prompts", file, "--max-new-tokens", 10, *compute, "--temperature", "1.5", "--json"]
        one, all_together = (tool.run(*same, "--batch-size", size).stdout for size in (1, 5))
        expect(one == all_together, f"{compute}: {one} and {all_together}")


@test
def a_prompt_has_several_completions(tool):
    file = tool.rows({"prompt": "one"}, {"prompt": "two"})
    sampled = ["--prompts", file, "--max-new-tokens", 8, "--ignore-eos", "--temperature", "1.5"]
    rows = tool.json(*sampled, "--num-return-sequences", 3)
    expect([row["prompt"] for row in rows] == ["one"] * 3 + ["two"] * 3, rows)
    expect(len({tuple(row["token_ids"]) for row in rows}) == 6, f"each is drawn by numbers of its own: {rows}")
    again = tool.json(*sampled, "--num-return-sequences", 3, "--batch-size", 1)
    expect([row["token_ids"] for row in again] == [row["token_ids"] for row in rows], "whatever the batch")
    out = tool.run("--prompt", "one", *sampled[2:], "--num-return-sequences", 2).stdout
    expect("--- 1 of 2: one\n" in out and "--- 2 of 2: one\n" in out, out)
    tool.refused("--prompt", "one", "--num-return-sequences", 2, words=["--num-return-sequences", "--temperature"])
    tool.refused("--interactive", "--num-return-sequences", 2, words=["--interactive: takes"])


WRONG_VALUES = {
    "--temperature": ["-1", "nan", "warm"],
    "--top-k": ["-1"],
    "--top-p": ["0", "1.5"],
    "--min-p": ["2"],
    "--repetition-penalty": ["0", "inf"],
    "--max-new-tokens": ["0"],
    "--batch-size": ["0"],
    "--num-return-sequences": ["0", "x"],
    "--stop": [""],
}


@test
def wrong_values_are_refused_by_name(tool):
    for option, values in WRONG_VALUES.items():
        for value in values:
            tool.refused("--prompt", "x", option, value, words=[option])
    tool.refused("--prompt", "x", "--compute-dtype", "int4", words=["--compute-dtype", "int4", "bfloat16"])
    tool.refused("--prompt", "x", "--prompts", "y", words=["--prompt", "--prompts"])
    tool.refused(words=["--prompt"])  # standard input is no terminal
    tool.refused("--prompt", "", words=["prompt"])
    tool.refused("--prompt", "x", "--adapter", "nope", words=["nope", "adapter"])


@test
def wrong_rows_are_named_by_file_and_line(tool):
    wrong = ["{", {"answer": 1}, {"input_ids": [1, -2]}, {"input_ids": [10**6]}, {"messages": []}, {"prompt": 5}]
    file = tool.rows({"prompt": "fine"}, *wrong)
    error = tool.run("--prompts", file, code=2).stderr
    for line in range(2, 8):
        expect(error.count(f"prompts.jsonl:{line}:") == 1, f"line {line} once in {error}")
    tool.refused("--prompts", tool.folder / "absent.jsonl", words=["absent.jsonl"])
    tool.refused("--prompts", tool.rows({"input_ids": [5] * 1025}), words=["1025 tokens", "1024 positions"])


def main(program, model, names):
    run_tests(names, lambda folder: Generate(program, model, folder))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:])
