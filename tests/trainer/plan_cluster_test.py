#!/usr/bin/env python3
"""`tailor plan --architecture` as users meet it: counts, layouts, reasons, messages and codes.

    plan_cluster_test.py PROGRAM PRESETS
"""

import json
import pathlib
import subprocess
import sys

from program import expect

program, presets = sys.argv[1], pathlib.Path(sys.argv[2])


def plan(model, *options, code=0):
    command = [program, "plan", "--architecture", str(presets / f"{model}.json"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    expect(done.returncode == code, f"code {code} from {' '.join(command)}: {done.returncode}\n{done.stderr}")
    return done.stdout if code == 0 else done.stderr


def counts_need_no_cluster():
    for model, parameters in (
        ("qwen3-30b-a3b", 30_532_122_624),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("kimi-k2", 1_026_408_232_448),
    ):
        found = json.loads(plan(model, "--r", "1", "--json"))
        expect(found["parameters"]["total"] == parameters, found["parameters"])
        expect("layouts" not in found, found)
        expect(f"{parameters:,}" in plan(model), model)
    expect("1.04T" in plan("kimi-k2"), "what its authors say")


def the_best_layouts_fit_and_the_others_have_reasons():
    found = json.loads(plan("qwen3-30b-a3b", "--gpus", "16", "--json"))
    times = [layout["step_time_s"] for layout in found["layouts"]]
    expect(len(times) == 5 and times == sorted(times), times)
    for layout in found["layouts"]:
        expect(layout["fits"] and layout["memory_bytes"] <= 80e9, layout)
        axes = layout["layout"]
        expect(axes["tp"] * axes["ep"] * axes["pp"] * axes["dp"] == 16, axes)
    refused = sum(reason["layouts"] for reason in found["refused"])
    expect(refused + found["layouts_fitting"] == found["layouts_tried"], found["refused"])
    text = plan("qwen3-30b-a3b", "--gpus", "16")
    for line in ("layouts: ", "memory of a rank: ", "communication of a rank and step", "why the others are out"):
        expect(line in text, f"{line} in\n{text}")


def one_layout_is_told_whether_it_fits_or_not():
    options = ("--gpus", "16", "--layout", "tp=2,ep=4,dp_shard=8", "--json")
    layout = json.loads(plan("qwen3-30b-a3b", *options))["layouts"][0]
    expect(layout["fits"] and layout["layout"]["dp"] == 2, layout)
    axes = {row["axis"] for row in layout["communication"]}
    expect(axes == {"tp", "ep", "dp_shard", "dp x ep", "dp"}, axes)
    large = json.loads(plan("kimi-k2", "--gpus", "16", "--layout", "ep=16", "--json"))["layouts"][0]
    expect(not large["fits"], large)
    expect("does not fit" in plan("kimi-k2", "--gpus", "16", "--layout", "ep=16"), "the same for people")


def where_nothing_fits_it_says_what_would():
    found = json.loads(plan("qwen3-235b-a22b", "--gpus", "16", "--json"))
    expect(found["layouts"] == [] and found["enough_gpus"] > 16, found.keys())
    expect(found["with_gradient_checkpointing"]["fits"], found.keys())
    expect("such GPUs would do" in plan("qwen3-235b-a22b", "--gpus", "16"), "the same for people")


def mistakes_are_told_with_code_2():
    for options, text in (
        (("--gpus", "16", "--layout", "tp=8"), "--layout: tp = 8 does not divide num_key_value_heads = 4"),
        (("--gpus", "16", "--layout", "tp=3"), "does not divide gpus = 16"),
        (("--layout", "tp=2"), "--layout: needs --gpus"),
        (("--gpus", "0"), "--gpus: Value 0 not in range 1 to 65536"),
        (("--gpus", "8", "--gpu-memory", "80"), '--gpu-memory: expected a size such as 80GB, found "80"'),
        (("--expert-lora", "outer"), "--expert-lora: expected per_expert, shared_outer or shared"),
        (("--target-modules", "q_proj,w1"), 'has no "w1"'),
        (("job.yaml",), "name either a job file or"),
    ):
        error = plan("qwen3-30b-a3b", *options, code=2)
        expect(text in error, f"{text} in {error}")
    expect("cannot be opened" in plan("no-such-model", code=2), "a file that is not there")


for test in (
    counts_need_no_cluster,
    the_best_layouts_fit_and_the_others_have_reasons,
    one_layout_is_told_whether_it_fits_or_not,
    where_nothing_fits_it_says_what_would,
    mistakes_are_told_with_code_2,
):
    test()
    print("ok", test.__name__)
