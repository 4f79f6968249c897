#!/usr/bin/env python3
"""`tailor report` as users meet it: of a run that has ended, of one that goes on, of what is no run.

    report_cli_test.py PROGRAM MODEL
"""

import json
import pathlib
import signal
import sys
import tempfile

from program import Job, expect, kill, run_program

PROGRAM, MODEL = sys.argv[1:]


def report(*arguments, code=0):
    return run_program(PROGRAM, "report", *arguments, code=code)


def data_of(page):
    text = page.read_text()
    begin = text.index('id="data">') + len('id="data">')
    return json.loads(text[begin : text.index("</script>", begin)])


def check_finished_run(job):
    result = json.loads(report(job.run, "--json").stdout)
    page = job.run / "report.html"
    expect(result["report"] == str(page) and result["bytes"] == page.stat().st_size, result)
    expect((result["steps"], result["samples"], result["notes"]) == (6, 0, []), result)
    data = data_of(page)
    lines = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
    logged = [line["loss"] for line in lines if "loss" in line]
    expect(data["metrics"]["steps"] == [1, 2, 3, 4, 5, 6], "a point a step")
    shown = data["metrics"]["columns"]["loss"]["values"]
    expect(all(abs(a - b) < 1e-6 * b for a, b in zip(shown, logged, strict=True)), "the losses of metrics.jsonl")
    evals = [value for value in data["metrics"]["columns"]["eval_loss"]["values"] if value is not None]
    expect(len(evals) == 2, "an evaluation at step 3 and at the end")
    expect(data["job"]["task"] == "sft" and data["job"]["r"] == 4, "the job's settings")
    expect(data["job"]["text"] == (job.run / "config.yaml").read_text(), "config.yaml as it is")
    expect(data["adapter"]["tensors"] == 42 and data["adapter"]["parameters"] == 5568, data["adapter"])
    expect([c["name"] for c in data["checkpoints"]] == job.checkpoints(), data["checkpoints"])

    other = job.run.parent / "elsewhere.html"
    text = report(job.run, "--output", other).stdout
    expect(text.startswith(f"wrote {other} (6 steps, 0 samples, "), text)
    expect(data_of(other)["metrics"] == data["metrics"], "the same page elsewhere")


def check_unfinished_run(job):
    with open(job.run / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    (job.run / "completions.jsonl").write_text('{"step": 1, "completion": "</script><b>"}\n')
    error = report(job.run, "--json").stderr
    expect("the last line is not complete" in error, error)
    expect(data_of(job.run / "report.html")["samples"] == [{"step": 1, "completion": "</script><b>"}], "the sample")


def check_page_of_training(folder):
    """report_to: html writes the page at the end of a run, and where it is interrupted."""
    html = ("--set", "output.report_to=[jsonl, html]")
    job = Job(PROGRAM, MODEL, folder, "told", steps=4)
    _, error = job.finish(*html)
    page = job.run / "report.html"
    expect(data_of(page)["metrics"]["steps"] == [1, 2, 3, 4] and f"report: {page}" in error, error)

    job = Job(PROGRAM, MODEL, folder, "stopped", steps=100000)
    process = job.start(*html)
    job.wait_for_steps(process, 3)
    kill(process, signal.SIGTERM)
    steps = data_of(job.run / "report.html")["metrics"]["steps"]
    expect(process.returncode == 130 and steps[-1] == job.logged_steps(), f"all steps so far: {steps}")


def check_refusals(folder):
    def refused(text, *arguments):
        error = report(*arguments, code=2).stderr
        expect(text in error, f"{text!r} in {error!r}")

    (folder / "empty").mkdir()
    refused("no such directory", folder / "nothing")
    refused("found neither metrics.jsonl nor completions.jsonl", folder / "empty")
    refused("expected a run directory", folder / "train.jsonl")
    refused(str(folder / "no" / "page.html"), folder / "run", "--output", folder / "no" / "page.html")
    expect(list((folder / "empty").iterdir()) == [], "nothing is written")
    metrics = folder / "run" / "metrics.jsonl"
    before = metrics.read_bytes()
    refused("expected a new file or a page of an earlier report", folder / "run", "--output", metrics)
    expect(metrics.read_bytes() == before, "the run's files stay")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        job = Job(PROGRAM, MODEL, folder, steps=6, save_steps=3, eval_steps=3)
        job.finish()
        check_finished_run(job)
        check_unfinished_run(job)
        check_page_of_training(folder)
        check_refusals(folder)


main()
