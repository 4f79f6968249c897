#!/usr/bin/env python3
"""Properties of `tailor train` and `tailor plan` as users meet them: results, codes, messages, files.

    train_cli_test.py PROGRAM MODEL [NAME...]
"""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys

from program import GRPO_JOB, JOB, Job, expect, expect_equal, kill, run_tests, test

RESULT_KEYS = ["steps", "loss", "tokens_per_second", "peak_rss_bytes", "adapter", "output_dir", "resumed_from"]


@test
def the_result_is_one_json_object_and_the_run_directory_is_complete(make):
    job = make()
    result, _ = job.finish()
    for key in RESULT_KEYS:
        expect(key in result, f"{key} in {result}")
    expect(result["steps"] == 20 and result["resumed_from"] is None, result)
    expect(result["loss"] > 0 and result["tokens_per_second"] > 0, result)
    expect(pathlib.Path(result["adapter"]) == (job.run / "adapter").resolve(), result)
    for name in ("config.yaml", "metrics.jsonl", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        expect((job.run / name).exists(), name)
    expect(job.checkpoints() == ["step-000015", "step-000020"], job.checkpoints())
    lines = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
    expect([row["step"] for row in lines if "loss" in row] == list(range(1, 21)), "a line a step")
    expect([row["step"] for row in lines if "eval_loss" in row] == [5, 10, 15, 20], "a line an evaluation")
    losses = [row["loss"] for row in lines if "loss" in row]
    expect(sum(losses[-5:]) < sum(losses[:5]), f"the loss falls: {losses}")


@test
def a_finished_run_says_so(make):
    job = make()
    first, _ = job.finish()
    before = job.result()
    again, error = job.finish()
    expect("finished" in error, error)
    expect(again["steps"] == 20 and again["loss"] == first["loss"], again)
    expect_equal(job.result(), before, "a finished run started again")
    _, error = job.finish("--set", "train.max_steps=10")
    expect("finished: 20, more than the job's 10, steps were done before" in error, error)
    expect_equal(job.result(), before, "a finished run asked for fewer steps")


@test
def a_longer_run_goes_on_from_the_end_of_the_shorter(make):
    job = make()
    job.finish("--set", "train.lr_scheduler_type=constant")
    result, error = job.finish("--quiet", "--set", "train.lr_scheduler_type=constant", "--set", "train.max_steps=30")
    expect(result["steps"] == 30 and "step-000020" in result["resumed_from"], result)
    expect("warning: resuming with a change: train.max_steps: begun with 20, now 30" in error, error)
    expect("the rate may jump" not in error, error)
    straight = make("straight")
    straight.finish("--set", "train.lr_scheduler_type=constant", "--set", "train.max_steps=30")
    mine, theirs = job.result(), straight.result()
    adapter = "adapter/adapter_model.safetensors"
    # The warm-up is a share of the steps and so another: only the count and the files' names agree.
    expect(mine[1].keys() == theirs[1].keys() and adapter in mine[1], mine[1].keys())


@test
def a_longer_cosine_says_that_its_rate_jumps(make):
    job = make(steps=5)
    job.finish("--set", "train.lr_scheduler_type=cosine")
    _, error = job.finish("--set", "train.lr_scheduler_type=cosine", "--set", "train.max_steps=10")
    expect("train.lr_scheduler_type: cosine is laid over the new number of steps" in error, error)


@test
def a_finished_adapter_without_checkpoints_is_not_overwritten(make):
    job = make(steps=5)
    job.finish()
    shutil.rmtree(job.run / "checkpoints")
    before = (job.run / "adapter" / "adapter_model.safetensors").read_bytes()
    _, error = job.finish(code=2)
    expect("output.dir: " in error and "finished run's" in error and "move it away" in error, error)
    expect((job.run / "adapter" / "adapter_model.safetensors").read_bytes() == before, "the adapter is untouched")


@test
def a_run_directory_that_cannot_be_made_is_named_by_its_key(make):
    job = make()
    _, error = job.finish("--set", f"output.dir={job.file}/run", code=2)
    expect("output.dir: cannot make" in error and "Not a directory" in error, error)


@test
def another_configuration_or_other_data_are_no_resume(make):
    job = make()
    job.finish("--set", "train.max_steps=10")
    before = job.result()
    _, error = job.finish("--set", "peft.r=2", "--set", "train.seed=8", code=2)
    expect("peft.r: begun with 4, now 2" in error and "train.seed: begun with 7, now 8" in error, error)
    data = job.file.parent / "train.jsonl"
    text = data.read_text()
    data.write_text(text.replace("and", "plus", 1))
    _, error = job.finish(code=2)
    expect("train data" in error, error)
    data.write_text(text)
    expect_equal(job.result(), before, "after refusals")
    _, error = job.finish("--set", "output.resume_from_checkpoint=false", code=2)
    expect("output.dir" in error, error)


@test
def a_run_whose_files_have_moved_goes_on(make):
    straight = make("straight")
    straight.finish()
    adapter = straight.file.parent / "begin"
    shutil.copytree(straight.run / "adapter", adapter)

    job, whole = make("moved"), make("whole")
    for each in (job, whole):
        each.file.write_text(each.file.read_text().replace("method: lora,", "method: lora, adapter_path: begin,"))
    whole.finish()
    process = job.start()
    job.wait_for_steps(process, 7)
    kill(process)

    folder = job.file.parent / "elsewhere"
    folder.mkdir()
    text = job.file.read_text()
    for name in ("train.jsonl", "test.jsonl", "begin"):
        (job.file.parent / name).rename(folder / name)
        text = text.replace(f": {name}", f": elsewhere/{name}")
    job.file.write_text(text)
    result, error = job.finish()
    expect("step-0000" in result["resumed_from"], result)
    expect("peft.adapter_path: begun with" in error, error)
    expect_equal(job.result(), whole.result(), "resumed with moved files")


@test
def a_start_adapter_that_does_not_fit_is_told_before_weights_are_read(make):
    begin = make("begin")
    begin.finish()
    job = make("start")
    adapter = begin.run / "adapter"
    job.file.write_text(job.file.read_text().replace("method: lora,", f"method: lora, adapter_path: {adapter},"))
    _, error = job.finish("--set", "peft.lora_alpha=5", code=2)
    expect("peft.lora_alpha" in error and str(adapter) in error, error)
    expect("a sample, what is learnt" not in error, error)  # the line that comes before the weights
    _, error = job.finish("--set", "peft.r=2", code=2)
    expect("--set peft.r=2: peft.r: " in error and "has rank 2 in the job and 4 in" in error, error)


@test
def documents_beyond_the_models_positions_are_told(make):
    job = make()
    (job.file.parent / "long.jsonl").write_text(json.dumps({"text": "7 and 8? " * 400}) + "\n")
    long = ["--set", "data.train=[{path: long.jsonl, format: text}]", "--set", "train.max_steps=1"]
    _, error = job.finish(*long, "--set", "data.max_length=1200")
    expect("data.max_length: a document of 1,200 tokens is longer than the 1024 positions" in error, error)
    _, error = make("within").finish(*long, "--set", "data.max_length=1024")
    expect("positions" not in error, error)


@test
def accumulation_is_the_same_as_a_larger_batch(make):
    whole, parts = make("whole"), make("parts")
    whole.finish()
    parts.finish("--set", "train.per_device_train_batch_size=1", "--set", "train.gradient_accumulation_steps=4")
    expect_equal(parts.result(), whole.result(), "batch 1 x 4 against 4 x 1")


@test
def a_signal_saves_and_the_resumed_run_ends_with_the_same_bytes(make):
    straight = make("straight", steps=40)
    straight.finish()
    for name, number in (("int", signal.SIGINT), ("term", signal.SIGTERM)):
        job = make(name, steps=40)
        process = job.start()
        job.wait_for_steps(process, 7)
        out, error = kill(process, number)
        expect(process.returncode == 130, f"code {process.returncode}: {error}")
        steps = json.loads(out)["steps"]
        expect(job.checkpoints()[-1] == f"step-{steps:06}", f"{steps} {job.checkpoints()}")
        expect("interrupted" in error, error)
        result, _ = job.finish()
        expect(f"step-{steps:06}" in result["resumed_from"], result)
        expect_equal(job.result(), straight.result(), f"interrupted by {name}")


@test
def a_signal_breaks_off_an_evaluation_which_the_resumed_run_makes(make):
    for task, template, data, times in (("sft", JOB, "test.jsonl", 1500), ("grpo", GRPO_JOB, "prompts.jsonl", 100)):
        straight = make(f"{task}-straight", steps=4, eval_steps=2, job=template)
        rows = straight.file.parent / data
        rows.write_text(rows.read_text() * times)
        straight.finish()
        for behind in (2, 4):
            job = make(f"{task}-{behind}", steps=4, eval_steps=2, job=template)
            process = job.start()
            job.wait_for_steps(process, behind)
            _, error = kill(process, signal.SIGINT)
            expect(process.returncode == 130, f"code {process.returncode}: {error}")
            expect(job.checkpoints()[-1] == f"step-{behind:06}", job.checkpoints())
            told = [json.loads(line) for line in (job.run / "metrics.jsonl").read_text().splitlines()]
            expect(not any("eval_runtime_s" in line for line in told if line["step"] == behind), told)
            job.finish()
            expect_equal(job.result(), straight.result(), f"{task}, the evaluation behind step {behind}")
    job = make("without")
    process = job.start("--set", "output.eval_steps=2")
    job.wait_for_steps(process, 2)
    kill(process, signal.SIGINT)
    job.file.write_text("".join(line for line in job.file.read_text().splitlines(True) if "  eval: " not in line))
    job.finish()  # nothing is due where the job evaluates nothing any more


@test
def a_second_process_is_kept_out(make):
    job = make(steps=2000)
    process = job.start()
    job.wait_for_steps(process, 1)
    _, error = job.finish(code=2)
    expect("another process" in error, error)
    kill(process)


@test
def a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(make):
    job = make(steps=20)
    job.finish()
    expected = job.result()
    shutil.rmtree(job.run / "adapter")
    with open(job.run / "checkpoints" / "step-000020" / "optimizer.safetensors", "r+b") as file:
        file.truncate(1000)
    result, error = job.finish()
    expect("step-000020" in error and "damaged" in error, error)
    expect("step-000015" in result["resumed_from"], result)
    expect_equal(job.result(), expected, "resumed from the checkpoint before")


@test
def a_full_disk_is_a_clear_error_and_costs_nothing_that_was_saved(make):
    straight = make("straight")
    straight.finish()
    # A limit on the size of a file makes a write fail in the middle, as a full disk does.
    last = straight.run / "checkpoints" / straight.checkpoints()[-1]
    limit = max(file.stat().st_size for file in last.iterdir()) - 1000
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    job = make("full")
    _, error = job.finish(code=2, **limited)
    expect("step-000005" in error and "File too large" in error and "make room" in error, error)
    expect(job.checkpoints() == [], job.checkpoints())
    job.finish()
    expect_equal(job.result(), straight.result(), "after a full disk")


@test
def bad_numbers_end_with_code_3(make):
    _, error = make("above").finish("--set", "train.max_loss=0.01", code=3)
    expect("step 3" in error and "train.max_loss" in error, error)
    job = make("nan")
    _, error = job.finish("--set", "train.learning_rate=1.0e+30", "--set", "train.warmup_ratio=0", code=3)
    expect("step" in error and any(f" is {found}" in error for found in ("NaN", "infinite", "-infinite")), error)


@test
def tasks_that_do_not_know_their_rank_are_refused(make):
    _, error = make().finish(code=2, env=os.environ | {"SLURM_STEP_NUM_TASKS": "2"})
    expect("srun started 2 tasks" in error and "--mpi=pmix" in error, error)


@test
def commands_for_one_rank_refuse_several(make):
    several = os.environ | {"OMPI_COMM_WORLD_SIZE": "3"}
    done = subprocess.run([make().program, "inspect", "nothing"], env=several, capture_output=True, text=True)
    expect(done.returncode == 2, done.returncode)
    expect("`tailor inspect` runs on one rank" in done.stderr, done.stderr)


@test
def sizes_that_do_not_fit_the_ranks_are_refused(make):
    _, error = make().finish("--set", "parallel.tensor_parallel_size=2", code=2)
    expect("parallel.tensor_parallel_size: 2 does not divide the 1 rank" in error, error)


@test
def a_gpu_that_is_not_there_is_refused_before_weights_are_read(make):
    job = make()
    nowhere = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    _, error = job.finish("--set", "model.device=cuda", code=2, env=nowhere)
    expect("--set model.device=cuda: model.device: expected a GPU" in error, error)
    expect("CUDA" in error or "none answers" in error, error)
    expect(not (job.run / "checkpoints").exists(), "nothing was begun")
    model = job.file.read_text().split("name_or_path: ")[1].split(",")[0].strip('"')
    for command in (["generate", "--prompt", "x", "--model", model], ["eval", str(job.file), "--without-adapter"]):
        command = [str(job.program), *command, "--device"]
        done = subprocess.run([*command, "cuda"], env=nowhere, capture_output=True, text=True)
        expect(done.returncode == 2 and "--device: expected a GPU" in done.stderr, done.stderr)
        done = subprocess.run([*command, "gpu"], capture_output=True, text=True)
        expect(done.returncode == 2 and "--device" in done.stderr and "cuda" in done.stderr, done.stderr)


@test
def a_job_that_cannot_begin_leaves_no_folder(make):
    job = make()
    _, error = job.finish("--set", "peft.r=99", code=2)
    expect("--set peft.r=99: peft.r: the rank of" in error, error)
    expect(not job.run.exists(), list(job.run.parent.iterdir()))
    _, error = job.finish("--set", "train.threads=999", code=2)
    expect("--set train.threads=999: train.threads: expected at most" in error, error)
    expect(not job.run.exists(), list(job.run.parent.iterdir()))


@test
def a_misspelt_option_is_answered_with_the_nearest(make):
    program = str(make().program)
    for command, text in (
        (["generate", "--prmpt", "x"], "error: unknown option --prmpt; did you mean --prompt?"),
        (["train", "job.yaml", "--treads", "2"], "error: unknown option --treads; did you mean --threads?"),
        (["bench", "gemm", "--treads", "2"], "error: unknown option --treads; did you mean --threads?"),
        (["generate", "--prmpt=a long text"], "error: unknown option --prmpt; did you mean --prompt?"),
        (["train", "job.yaml", "--debg"], "error: unknown option --debg; did you mean --debug?"),
        (["--json", "train", "job.yaml"], "error: --json: expected behind the command `train`"),
        (["generate", "--xyzzy"], "error: unknown option --xyzzy\n`tailor generate --help`"),
        (["inspect", "a", "b"], "not expected: b"),
        (["generate", "--top-k", "many"], "error: --top-k: expected a number, found many\n"),
        (["bench", "step", "--rows", "0"], "--rows: Value 0 not in range 1 to"),
        (["generate", "--seed", "-1"], "--seed: Value -1 not in range 0 to"),
    ):
        done = subprocess.run([program, *command], capture_output=True, text=True)
        expect(done.returncode == 2 and text in done.stderr, f"{command}: {done.stderr}")


@test
def an_error_cannot_steer_the_terminal(make):
    job = make()
    job.file.write_text(job.file.read_text() + '"a\\e[31mb": 1\n')
    _, error = job.finish(code=2)
    expect("[31mb: unknown key" in error and "\033" not in error, repr(error))
    missing = job.file.parent / "a\033[31mb.yaml"
    done = subprocess.run([str(job.program), "train", str(missing)], capture_output=True, text=True)
    expect("a?[31mb.yaml" in done.stderr and "\033" not in done.stderr, repr(done.stderr))


@test
def a_target_that_matches_nothing_is_named_with_its_place(make):
    job = make()
    _, error = job.finish("--set", "peft.target_modules=[q_prj]", code=2)
    expect("q_prj" in error and "peft.target_modules" in error, error)
    expect("q_proj" in error, error)


@test
def tensors_that_the_model_has_no_place_for_are_told(make):
    job = make(steps=1)
    model = pathlib.Path(job.file.read_text().split("name_or_path: ")[1].split(",")[0].strip('"'))
    shorter = job.file.parent / "shorter"
    shutil.copytree(model, shorter)
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (shorter / "config.json").write_text(json.dumps(config))
    _, error = job.finish("--set", f"model.name_or_path={shorter}")
    expect(f"warning: {shorter}: " in error and "tensors have no place in the model of" in error, error)
    expect(f"model.layers.{config['num_hidden_layers']}." in error, error)
    _, error = make("whole", steps=1).finish()
    expect("have no place" not in error, error)


@test
def plan_shows_the_job_and_estimates_its_memory(make):
    job = make()
    plan = subprocess.run([str(job.program), "plan", str(job.file), "--json"], capture_output=True, text=True)
    expect(plan.returncode == 0, plan.stderr)
    plan = json.loads(plan.stdout)
    result, _ = job.finish()
    expect(plan["total_steps"] == 20 and plan["train_data"]["rows"] == 40, plan)
    expect("[[" in plan["sample"], plan["sample"])
    ratio = plan["memory_bytes"]["total"] / result["peak_rss_bytes"]
    sanitized = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ  # which take several times the memory
    expect(sanitized or 0.5 < ratio < 2.0, f"estimate over peak: {ratio}")
    text = subprocess.run([str(job.program), "plan", str(job.file)], capture_output=True, text=True)
    expect(text.returncode == 0 and "q_proj" in text.stdout, text.stderr)


@test
def the_saved_configuration_is_a_job_of_its_own(make):
    job = make()
    job.finish("--set", "train.max_steps=3")
    plan = subprocess.run(
        [str(job.program), "plan", str(job.run / "config.yaml"), "--json"], capture_output=True, text=True
    )
    expect(plan.returncode == 0 and json.loads(plan.stdout)["total_steps"] == 3, plan.stderr)


@test
def wrong_commands_and_files_end_with_code_2(make):
    program = str(make().program)

    def run(*arguments):
        done = subprocess.run([program, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    code, text = run("trian", "job.yaml")
    expect(code == 2 and 'did you mean "train"' in text, text)
    expect(run("train")[0] == 2 and run()[0] == 2, "a missing argument is the user's mistake")
    code, text = run("train", "/nonexistent/job.yaml")
    expect(code == 2 and "/nonexistent/job.yaml" in text, text)
    code, text = run("--version")
    expect(code == 0 and text.startswith("tailor "), text)
    code, text = run("--help")
    expect(code == 0 and "train" in text, text)
    commands = [line.split()[0] for line in text.split("Subcommands:\n")[1].splitlines() if line]
    expect(len(commands) > 10, text)
    for arguments in ([], *([command] for command in commands)):  # answered early, and by the program's own way
        early, late = run(*arguments, "--help"), run(*arguments, "--debug", "--help")
        expect(early == late == run(*arguments, "-h") and early[0] == 0, f"{arguments}: {early[1]} {late[1]}")
    expect(run("--version") == run("--debug", "--version"), "the version is that of the program")
    files = subprocess.run([program, "--help"], env={"LD_DEBUG": "files"}, capture_output=True, text=True).stderr
    sanitized = "libasan.so" in files or "libtsan.so" in files  # there the program answers
    expect(sanitized or "calling init: " not in files, "help comes before the libraries start")
    for arguments in (["schema"], ["--help"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([program, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
        expect(done.returncode == 2 and "error: stdout: " in done.stderr, f"a full disk is told: {done}")
    code, text = run("train", "/nonexistent/job.yaml", "--debug")
    expect(code == 2 and "frame" in text, text)


def main(program, model, names):
    run_tests(names, lambda folder: lambda name="run", **options: Job(program, model, folder, name, **options))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:])
