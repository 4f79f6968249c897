#!/usr/bin/env python3
"""Properties of `tailor eval` as users meet them: results, codes, messages.

    eval_cli_test.py PROGRAM MODEL [NAME...]
"""

import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys

from program import Job, expect, run_tests, test

KEYS = ["loss", "perplexity", "token_accuracy", "num_tokens", "adapter"]


def golden(model, name, kind):
    """A tensor of the model's golden.safetensors; kind: q for int64, f for float32."""
    data = (model / "golden.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    begin, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    return [x for (x,) in struct.iter_unpack("<" + kind, data[8 + length + begin : 8 + length + end])]


class Eval:
    def __init__(self, program, model, folder):
        self.program, self.model, self.folder = program, model, folder

    def run(self, *more, code=0):
        command = [str(self.program), "eval", "--threads", "1", *map(str, more)]
        process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240)
        expect(process.returncode == code, f"code {code} of {command}, got {process.returncode}: {process.stderr}")
        return process

    def json(self, *more):
        result = json.loads(self.run(*more, "--json").stdout)
        expect(all(key in result for key in KEYS), result)
        expect(math.isclose(result["perplexity"], math.exp(result["loss"]), rel_tol=1e-6), result)
        expect(0 <= result["token_accuracy"] <= 1, result)
        return result

    def of_model(self, file, *more):
        return ["--model", self.model, "--dtype", "float32", "--data", file, *more]

    def rows(self, *rows):
        file = self.folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    def completion(self, prompt, new_tokens):
        command = [self.program, "generate", "--model", self.model, "--dtype", "float32", "--threads", "1"]
        command += ["--prompt", prompt, "--max-new-tokens", new_tokens, "--json"]
        out = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
        return json.loads(out)["text"]


@test
def the_loss_is_that_of_transformers(tool):
    ids, labels = golden(tool.model, "input_ids", "q"), golden(tool.model, "labels", "q")
    offsets = golden(tool.model, "document_offsets", "q")
    spans = list(zip(offsets, offsets[1:]))
    file = tool.rows(*[{"input_ids": ids[a:b], "labels": labels[a:b]} for a, b in spans])
    result = tool.json(*tool.of_model(file))
    (loss,) = golden(tool.model, "loss", "f")
    expect(abs(result["loss"] - loss) < 1e-4, (result, loss))
    supervised = sum(label != -100 for a, b in spans for label in labels[a + 1 : b])
    expect(result["num_tokens"] == supervised and result["adapter"] is None, result)
    text = tool.run(*tool.of_model(file, "--format", "tokens")).stdout
    expect(f"{result['loss']:.6f}" in text and "perplexity" in text, text)


@test
def exact_match_counts_right_answers(tool):
    prompts = ["Ann has 12", "Ben gives 4", "1 and 2"]
    rows = [{"prompt": p, "completion": tool.completion(p, 6) or "#"} for p in prompts]
    rows.append({"prompt": "Ann has 12", "completion": "#### 987654321"})
    file = tool.rows(*rows)
    arguments = tool.of_model(file, "--exact-match", "--max-new-tokens", 6)
    result = tool.json(*arguments)
    expect(result["exact_match"] == 0.75 and result["num_rows"] == 4, result)
    alone = json.loads(tool.run(*arguments, "--without-loss", "--json").stdout)
    nothing = dict.fromkeys(("loss", "perplexity", "token_accuracy", "num_tokens"))
    expect(alone == {**result, **nothing}, alone)
    expect("loss" not in tool.run(*arguments, "--without-loss").stdout, "and tells none")
    expect(tool.json(*arguments, "--batch-size", 1) == result, "batch size")
    text = tool.run(*arguments, "--show", 4).stdout
    expect(text.count(": right\n") == 3 and text.count(": wrong\n") == 1 and "0.7500 (3 of 4 rows)" in text, text)
    only = tool.json(*arguments, "--answer-pattern", "(987654321)")
    expect(only["exact_match"] == 0.75, f"references without an answer compare as text: {only}")


@test
def conversations_are_answered_up_to_the_last_assistant_turn(tool):
    turns = [{"role": "user", "content": "1 and 2?"}, {"role": "assistant", "content": "unlikely 77"}]
    result = tool.json(*tool.of_model(tool.rows({"messages": turns}), "--exact-match", "--max-new-tokens", 4))
    expect(result["exact_match"] == 0 and result["num_rows"] == 1, result)


@test
def a_job_is_evaluated_with_the_adapter_that_it_left(tool):
    job = Job(tool.program, tool.model, tool.folder)
    error = tool.run(job.file, code=2).stderr
    expect("adapter" in error and "--without-adapter" in error, error)
    before = tool.json(job.file, "--without-adapter")
    job.finish()
    after = tool.json(job.file)
    expect(after["adapter"].endswith("/adapter") and after["loss"] != before["loss"], (before, after))
    lines = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
    logged = [row["eval_loss"] for row in lines if "eval_loss" in row][-1]
    expect(abs(after["loss"] - logged) < 1e-5, f"the run's last evaluation: {logged}, {after}")
    by_hand = tool.json(*tool.of_model(tool.folder / "test.jsonl", "--adapter", job.run / "adapter"))
    expect(abs(by_hand["loss"] - after["loss"]) < 1e-6 and by_hand["num_tokens"] == after["num_tokens"], by_hand)
    base = tool.json(*tool.of_model(tool.folder / "test.jsonl"))
    expect(base == before, (base, before))


@test
def a_loss_that_is_no_number_ends_with_code_3(tool):
    broken = tool.folder / "broken"
    shutil.copytree(tool.model, broken)
    file = broken / "model.safetensors"
    bytes_ = bytearray(file.read_bytes())
    size = struct.unpack("<Q", bytes_[:8])[0]
    begin = 8 + size + json.loads(bytes_[8 : 8 + size])["model.norm.weight"]["data_offsets"][0]
    bytes_[begin : begin + 4] = b"\xff\xff\xff\x7f"  # NaN, of float32 and of bfloat16
    file.write_bytes(bytes_)
    rows = tool.rows({"text": "hello"})
    error = tool.run("--model", broken, "--data", rows, code=3).stderr
    expect("the loss is not finite" in error and str(broken) in error, error)


@test
def wrong_input_ends_with_code_2(tool):
    file = tool.rows({"text": "hello"})
    for arguments, words in [
        ([], ["--model", "--data"]),
        (["--model", tool.model], ["--data"]),
        (tool.of_model(tool.folder / "absent.jsonl"), ["absent.jsonl"]),
        (tool.of_model(file, "--format", "chat"), ["--format", "chat", "prompt_completion"]),
        (tool.of_model(file, "--format", "messages"), ["rows.jsonl:1", "messages", "text"]),
        (tool.of_model(file, "--exact-match"), ["exact match", "text"]),
        (tool.of_model(file, "--answer-pattern", "x"), ["--exact-match"]),
        (tool.of_model(file, "--without-loss"), ["--without-loss", "--exact-match"]),
        (tool.of_model(file, "--exact-match", "--answer-pattern", "("), ["--answer-pattern"]),
        (tool.of_model(file, "--batch-size", "0"), ["--batch-size"]),
        (tool.of_model(file, "--adapter", tool.folder / "none"), ["none"]),
        (["--model", tool.folder / "none", "--data", file], ["none"]),
        (tool.of_model(file, "--set", "a=b"), ["--set"]),
    ]:
        error = tool.run(*arguments, code=2).stderr
        expect(all(word in error for word in words), f"{words} in {error!r}")
    unknown = tool.folder / "unknown.jsonl"
    unknown.write_text('{"question": "?"}\n')
    expect("--format" in tool.run(*tool.of_model(unknown), code=2).stderr, "an unknown format")
    unknown.write_text("\n")
    expect("unknown.jsonl: the file has no rows" in tool.run(*tool.of_model(unknown), code=2).stderr, "an empty file")


def main(program, model, names):
    run_tests(names, lambda folder: Eval(program, model, folder))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:])
