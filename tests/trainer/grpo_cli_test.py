#!/usr/bin/env python3
"""`tailor train` with task grpo on a tiny model: what stops a job, what its options do, what a user sees.

    grpo_cli_test.py PROGRAM MODEL [NAME...]
"""

import json
import pathlib
import subprocess
import sys

from program import expect, run_tests, test

JOB = """\
task: grpo
model: {{name_or_path: {model}, dtype: float32}}
peft: {{r: 4, lora_alpha: 8, init_lora_weights: false}}
data: {{train: [{{path: prompts.jsonl}}], eval: [{{path: prompts.jsonl}}]}}
grpo: {{num_generations: 4, max_completion_length: 8}}
rewards: [{{name: regex, pattern: "[aeiou]"}}]
train: {{learning_rate: 2.0e-3, lr_scheduler_type: constant, max_steps: 3, per_device_train_batch_size: 16, threads: 1}}
output: {{dir: {name}, save_steps: 0, eval_steps: 2}}
"""

REWARDS = """\
def moody(prompts, completions, columns_are_rows, **rest):
    out = []
    for text, row in zip(completions, columns_are_rows):
        if row == 1:
            raise ValueError("row 1 is not to my taste")
        out.append(None if row == 2 else float(len(text)))
    return out
"""

PENALTY = """\
import os


def penalty(completions, **rest):
    out = []
    for text in completions:
        kind = len(text) % 5
        if kind == 0:
            raise ValueError("a text that breaks the grader")
        out.append([float("nan"), None, -1.0, -0.5][kind - 1])
    return out


def mortal(completions, **rest):
    if os.path.exists("broken"):
        os._exit(3)
    return [float(len(text)) for text in completions]
"""

LATE = """\
calls = []


def late(completions, **rest):
    calls.append(len(completions))
    if len(calls) > 1:
        raise ValueError("the judge has gone")
    return [float(len(text)) for text in completions]
"""

GONE = """\
import os


def gone(completions, **rest):
    if os.path.exists("gone"):
        raise ValueError("the judge has gone")
    return [float(len(text)) for text in completions]
"""


class Run:
    def __init__(self, program, model, folder, name):
        self.program, self.name, self.dir = program, name, folder / name
        self.file = folder / f"{name}.yaml"
        self.file.write_text(JOB.format(model=json.dumps(str(model)), name=name))

    def train(self, *settings, code=0, command="train"):
        """Standard output, as JSON where it is, and standard error."""
        words = [str(self.program), command, str(self.file), "--json"]
        words += [word for setting in settings for word in ("--set", setting)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240)
        if done.returncode != code:
            sys.exit(f"{self.name} {settings}: expected code {code}, got {done.returncode}\n{done.stderr}")
        return (json.loads(done.stdout) if done.stdout else None), done.stderr

    def lines(self, name="metrics.jsonl"):
        return [json.loads(line) for line in (self.dir / name).read_text().splitlines()]

    def steps(self):
        return [line for line in self.lines() if "loss" in line]


@test
def a_run_tells_what_it_did(make):
    run = make("told")
    result, error = run.train()
    expect(result["steps"] == 3 and 0 <= result["reward"] <= 1 and 0 <= result["eval_reward"] <= 1, f"result: {result}")
    expect("16 completions" in error or "4 prompts x 4 completions" in error, f"the plan is told: {error}")
    for line in run.steps():
        expect(line["clip_ratio/region_mean"] == 0 and line["ratio/mean"] == 1, f"the first update: ratios of 1: {line}")
        expect(line["mismatch/max_difference"] < 1e-4, f"the sampler is the trainer: {line}")
        expect(sum(line["reward_histogram"]["counts"]) == 16, f"a histogram of all rewards: {line}")
        expect("kl" not in line, "no reference is asked without beta")
    samples = run.lines("completions.jsonl")
    expect(len(samples) == 3 * 16, f"every sample is there: {len(samples)}")
    for start in range(0, len(samples), 4):
        group = samples[start : start + 4]
        expect(len({json.dumps(s["prompt"]) for s in group}) == 1, f"a group has one prompt: {group}")
        expect(abs(sum(s["advantage"] for s in group)) < 1e-3, f"advantages of a group add up to 0: {group}")
    evaluations = [line for line in run.lines() if "eval_reward" in line]
    expect([line["step"] for line in evaluations] == [2, 3], f"evaluations: {evaluations}")
    expect("reward by step:" in error and "loss by step:" not in error, f"the curve that is drawn is the reward's: {error}")
    expect(not (run.dir / "report.html").exists(), "no page that was not asked for")
    _, error = run.train("train.per_device_train_batch_size=4", "train.max_steps=1", "output.dir=single")
    expect("1 prompt x 4 completions of at most 8 tokens, 1 step from each; the run: 1 step" in error, f"one is one: {error}")
    plan, _ = run.train(command="plan")
    expect(plan["prompts_in_batch"] == 4 and plan["total_steps"] == 3, f"plan: {plan}")
    kept = plan["memory_bytes"]["reused forwards"]
    expect(0 < kept < 2 << 30, f"what the update reuses: {plan['memory_bytes']}")
    small, _ = run.train("grpo.reuse_forward_mb=1", command="plan")
    expect(small["memory_bytes"]["reused forwards"] == min(kept, 1 << 20), "within its limit")
    ahead, _ = run.train("grpo.max_staleness=1", command="plan")
    expect("reused forwards" not in ahead["memory_bytes"], "nothing is kept")


@test
def an_update_reuses_what_the_sampler_computed(make):
    reused, plain = make("reused"), make("plain")
    reused.train()
    plain.train("grpo.reuse_forward_mb=0")
    expect([line["frac_reused_tokens"] for line in reused.steps()] == [0, 1, 1], "all but the step that checks")
    expect([line["frac_reused_tokens"] for line in plain.steps()] == [0, 0, 0], "switched off")
    for mine, theirs in zip(reused.steps(), plain.steps()):
        for name in ("loss", "grad_norm", "entropy", "reward"):
            expect(abs(mine[name] - theirs[name]) < 1e-4 * (1 + abs(theirs[name])), f"{name}: {mine} {theirs}")
    ahead = make("ahead")
    ahead.train("grpo.max_staleness=1")
    expect([line["frac_reused_tokens"] for line in ahead.steps()] == [0, 0, 0], "older weights sampled")


@test
def what_cannot_go_on_is_stopped_by_name(make):
    run = make("stopped")
    nothing = 'rewards=[{name: regex, pattern: "no such text"}]'
    for settings, words, step, culprit in [
        ([nothing, "grpo.zero_spread_patience=2"], "step 2: for 2 batches no prompt had", 2, "frac_reward_zero_std"),
        (["grpo.mismatch_limit=1e-12"], "the adapter does not reach the sampler", 1, "mismatch/mean_difference"),
        (["grpo.beta=0.1", "grpo.kl_limit=1e-9", "grpo.kl_patience=2"], "above grpo.kl_limit", 2, "kl"),
    ]:
        folder = pathlib.Path(f"{run.dir}-{words[:4].strip()}")
        output = (f"output.dir={folder}", "output.report_to=[jsonl, html]", "output.logging_steps=50")
        _, error = run.train(*settings, *output, code=3)
        expect(words in error, f"{settings}: {error}")
        expect((folder / "report.html").exists(), "a page of what went wrong")
        # In the interval's middle, and yet what stopped the job can be seen.
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        expect(f"step {step}: " in error and last["step"] == step and last[culprit] > 1e-9, f"{step}, {culprit}: {error} {last}")
    _, error = run.train("grpo.num_generations=5", code=2)
    expect("grpo.num_generations: expected a divisor" in error and ".yaml:5:" in error, error)
    _, error = run.train("grpo.max_completion_length=100000", code=2)
    expect("grpo.max_completion_length: a prompt of" in error and "positions" in error, error)
    for command in ("train", "plan"):
        _, error = run.train("rewards=[{name: exact_answer, column: anser}]", code=2, command=command)
        expect('rewards[0]: no row of data.train has the column "anser"; beside its prompt the first has' in error, error)
    (run.dir.parent / "answered.jsonl").write_text(json.dumps({"prompt": "one", "answer": "1"}) + "\n")
    _, error = run.train("rewards=[{name: exact_answer}]", "data.train=[{path: answered.jsonl}]", code=2)
    expect('rewards[0]: no row of data.eval has the column "answer"' in error, error)


@test
def options_change_what_they_say(make):
    plain = make("plain")
    plain.train()

    def metrics(name, *settings, length=None):
        run = make(name)
        run.train(*settings)
        return run

    # At the first update all clipped losses have one gradient; the step behind it shows the others.
    for loss in ["grpo", "dr_grpo", "bnpo", "sapo", "gspo"]:
        run = metrics(f"loss-{loss}", f"grpo.loss_type={loss}", "grpo.num_iterations=2")
        expect(all(abs(line["loss"]) < 100 for line in run.steps()), f"{loss}: finite losses")
        expect(run.steps()[1]["ratio/max"] != 1.0, f"{loss}: the second pass has moved")
    metrics("loss-cispo", "grpo.loss_type=cispo", "grpo.epsilon_high=5")
    metrics("loss-minirl", "grpo.loss_type=minirl", "grpo.scale_rewards=none")
    metrics("loss-luspo", "grpo.loss_type=luspo", "grpo.importance_sampling_level=sequence")
    vespo = metrics("loss-vespo", "grpo.loss_type=vespo").steps()[0]
    expect(vespo["vespo/phi_seq_mean"] > 0, f"vespo tells its weight: {vespo}")

    kl = metrics("kl-loss", "grpo.beta=0.5").steps()[0]
    expect(kl["kl"] > 0, f"the divergence is measured: {kl}")
    in_reward = metrics("kl-reward", "grpo.beta=0.5", "grpo.kl_in=reward")
    moved = [a["reward"] != b["reward"] for a, b in zip(in_reward.steps(), plain.steps())]
    expect(any(moved), "a divergence in the reward is taken off it")

    entropy = metrics("entropy", "grpo.entropy_coef=1.0").steps()[0]
    expect(abs(entropy["loss"] - plain.steps()[0]["loss"] + entropy["entropy"]) < 1e-4, f"the bonus: {entropy}")
    half = metrics("quantile", "grpo.top_entropy_quantile=0.5").steps()[0]
    expect(half["grad_norm"] < plain.steps()[0]["grad_norm"], "half of the tokens move less")

    dynamic = metrics("dynamic", "grpo.dynamic_sampling=true", "grpo.max_num_gen_batches=20")
    samples = dynamic.lines("completions.jsonl")
    for line in dynamic.steps():
        expect(line["frac_reward_zero_std"] == 0, f"every group has spread: {line}")
        groups = {}
        for sample in samples:
            if sample["step"] == line["step"]:
                groups.setdefault(sample["group"], []).append(sample)
        discarded = [group for group in groups.values() if group[0].get("discarded")]
        expect(len(discarded) == line["num_discarded_groups"], f"all that was drawn is there: {line}")
        expect(len(groups) == 4 + len(discarded), f"by numbers of their own: {sorted(groups)}")
        for group in groups.values():
            expect([sample["index"] for sample in group] == [0, 1, 2, 3], f"a group is whole: {group}")
            expect(len({sample["row"] for sample in group}) == 1, f"and of one row: {group}")
        for group in discarded:
            expect(len({sample["reward"] for sample in group}) == 1, f"without spread: {group}")
            unused = all(sample["discarded"] and sample["advantage"] == 0 for sample in group)
            expect(unused, f"and not learnt from: {group}")
    expect(any(line["num_discarded_groups"] > 0 for line in dynamic.steps()), "some groups had none")

    masked = make("masked")
    _, error = masked.train("grpo.max_completion_length=1", "grpo.min_new_tokens=1", "grpo.mask_truncated_completions=true")
    expect("every completion was left out, cut at the limit" in error, error)
    expect(all(line["loss"] == 0 and line["grad_norm"] == 0 for line in masked.steps()), "nothing moved")

    for correction in ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "bypass"]:
        run = metrics(f"correction-{correction}", f"grpo.importance_sampling_correction={correction}")
        expect(run.steps()[0]["mismatch/ess"] > 0.999, f"{correction}: weights of 1 where nothing is to be corrected")
    nothing = metrics("reject-nothing", "grpo.importance_sampling_reject={token_k1: 1.5, seq_mean_k3: 0.1}").steps()
    expect(all(line["frac_rejected_tokens"] == 0 for line in nothing), "sampler and trainer agree: nothing is rejected")
    expect(abs(nothing[0]["grad_norm"] / plain.steps()[0]["grad_norm"] - 1) < 1e-4, "and the update is the plain one")
    everything = make("reject-everything")
    _, error = everything.train("grpo.importance_sampling_reject={seq_max_k3: 1e-30}")
    expect("rejected (grpo.importance_sampling_reject)" in error, error)
    for line in everything.steps():
        expect(line["frac_rejected_sequences"] > 0.5, f"bounds that rounding breaks: {line}")
        expect(line["mismatch/mean_difference"] > 0, f"the mismatch is that of all tokens: {line}")
    quiet = metrics("quiet", "grpo.log_completions=false")
    expect(not (quiet.dir / "completions.jsonl").exists(), "no completions are logged")


@test
def stop_strings_end_completions(make):
    plain = make("unstopped")
    plain.train("grpo.max_completion_length=12")
    run = make("stopped-by-text")
    run.train("grpo.max_completion_length=12", 'grpo.stop=["e", "ab"]')
    free, ended = plain.lines("completions.jsonl")[:16], run.lines("completions.jsonl")[:16]
    for a, b in zip(free, ended):  # the first batch: the same weights
        cuts = [a["completion"].find(text) + len(text) for text in ("e", "ab") if text in a["completion"]]
        end = min(cuts, default=len(a["completion"]))
        expect(b["completion"].startswith(a["completion"][:end]), f"the text has the stop string: {a} {b}")
        expect(a["completion"].startswith(b["completion"]), f"and ends with the token that brought it: {a} {b}")
        expect(b["finish_reason"] == ("stop_string" if cuts else a["finish_reason"]), f"which is an end: {b}")
        expect(b["num_tokens"] <= a["num_tokens"], f"with its tokens: {b}")
    expect(any(b["num_tokens"] < a["num_tokens"] for a, b in zip(free, ended)), "some were ended")
    for job in plain, run:
        ends = [sample["finish_reason"] for sample in job.lines("completions.jsonl")[:16]]
        names = {"clipped_ratio": "length", "eos_token_ratio": "eos_token", "stop_string_ratio": "stop_string"}
        for name, end in names.items():
            expect(job.steps()[0][f"completions/{name}"] == ends.count(end) / 16, f"{name}: {ends}")
        expect(set(ends) <= set(names.values()), f"no other ends: {ends}")
    later = make("stopped-later")
    later.train("grpo.max_completion_length=12", 'grpo.stop="e"', "grpo.min_new_tokens=6")
    stopped = [s["num_tokens"] for s in later.lines("completions.jsonl") if s["completion"][-1:] == "e"]
    expect(min(stopped) >= 6, f"not before min_new_tokens: {stopped}")
    expect(min(stopped) < 12, f"and then behind the first: {stopped}")
    _, error = run.train("grpo.max_completion_length=12", 'grpo.stop=["e"]', "train.max_steps=5", code=2)
    expect('grpo.stop: begun with ["e", "ab"], now ["e"]' in error, error)


@test
def rewards_are_told_at_every_interval(make):
    run = make("interval")
    run.train("output.logging_steps=4", "grpo.steps_per_generation=2", "train.max_steps=9")
    told = {line["step"]: "reward" in line and "reward_histogram" in line for line in run.steps()}
    expect(told == {1: True, 4: False, 5: True, 8: False, 9: True}, f"batches begin with odd steps: {told}")


@test
def batches_are_sampled_ahead(make):
    """Which weights sample a batch follows from max_staleness alone, however long the rewards take."""
    slow = "import random, time\n\n\ndef slow(completions, **rest):\n    time.sleep({})\n    return [float('a' in c) for c in completions]\n"
    folder = make("folder").file.parent
    (folder / "slow.py").write_text(slow.format("random.uniform(0.1, 0.3)"))
    (folder / "quick.py").write_text(slow.format("0"))

    def run(name, *settings):
        job = make(name)
        job.train("train.max_steps=6", "output.eval_steps=0", *settings)
        samples = job.lines("completions.jsonl")
        return job.steps(), [[s["completion"] for s in samples if s["step"] == step] for step in range(1, 7)]

    ahead = "grpo.max_staleness=1"
    steps, texts = run("ahead-slow", ahead, "rewards=[{python: slow.py:slow}]")
    other, others = run("ahead-quick", ahead, "rewards=[{python: quick.py:slow}]")
    plain, on_policy = run("on-policy", "rewards=[{python: quick.py:slow}]")
    still, unmoved = run("unmoved", "rewards=[{python: quick.py:slow}]", "train.learning_rate=1e-12")
    times = {"_s", "_second", "_bytes"}
    same = lambda line: {k: v for k, v in line.items() if not any(k.endswith(end) for end in times)}  # noqa: E731
    expect(texts == others and [same(a) for a in steps] == [same(b) for b in other], "the same run whatever rewards take")
    expect([line["staleness"] for line in steps] == [0, 1, 1, 1, 1, 1], f"staleness: {steps}")
    expect(all("staleness" not in line for line in plain), "which is told where there can be some")
    expect([line["epoch"] for line in steps] == [line["epoch"] for line in plain], "epochs count what was trained on")
    expect(texts[0] == on_policy[0] and texts[1] == unmoved[1], "the second batch is of the first weights")
    expect(texts[1] != on_policy[1], "and not of the second ones")
    expect(steps[0]["ratio/mean"] == plain[0]["ratio/mean"] == 1 or abs(steps[0]["ratio/mean"] - 1) < 1e-5, "ratios of 1")
    for line in steps[1:]:
        expect(line["logprob_difference/max"] > 1e-3, f"the ratio is that to the weights that sampled: {line}")
        expect(line["mismatch/max_difference"] < 1e-4, f"which the sampler is compared with: {line}")
    expect(sum(line["reward_time_s"] for line in steps) < sum(line["reward_busy_s"] for line in steps), "rewards are waited for in part")
    bypass, _ = run("ahead-bypass", ahead, "rewards=[{python: quick.py:slow}]", "grpo.importance_sampling_correction=bypass")
    for a, b in zip(bypass, steps):
        expect(abs(a["loss"] - b["loss"]) < 1e-4 and abs(a["ratio/mean"] - b["ratio/mean"]) < 1e-4, f"the sampler's own numbers will do: {a} {b}")
    for staleness, expected in (1, [0, 1, 1]), (2, [0, 2, 2]), (9, [0, 2, 2]):
        twice, _ = run(f"twice-{staleness}", f"grpo.max_staleness={staleness}", "grpo.num_iterations=2")
        found = [line["staleness"] for line in twice if "staleness" in line]
        expect(found == expected, f"at most {staleness} and a batch: {found}")
    _, error = make("once").train(ahead, "train.max_steps=1")
    expect("1 step from each, sampled 1 step ahead; the run: 1 step" in error, error)
    _, error = make("both").train(ahead, "grpo.dynamic_sampling=true", code=2)
    expect("dynamic_sampling: expected false with max_staleness" in error, error)


@test
def rewards_that_fail_cost_their_samples(make):
    run = make("moody")
    (run.file.parent / "moody.py").write_text(REWARDS)
    result, error = run.train('rewards=[{python: "moody.py:moody"}]')
    expect(result["steps"] == 3, f"the job goes on: {result}")
    samples = run.lines("completions.jsonl")
    first = next(sample for sample in samples if "faults" in sample)
    place = f"step {first['step']}, {first['row']}, completion {first['index']}: "
    reason = "line 5: ValueError: row 1 is not to my taste"
    expect(f"reward moody at {place}{reason}" in error, f"the sample is named: {error}")
    prompts = (run.file.parent / "prompts.jsonl").read_text().splitlines()
    for sample in samples:
        name, line = sample["row"].split(":")
        row = json.loads(prompts[int(line) - 1])
        expect(name == "prompts.jsonl" and row["prompt"] == sample["prompt"], f"its row: {sample}")
        failed = sample["columns"]["columns_are_rows"] == 1
        expect(sample.get("faults") == ({"moody": reason} if failed else None), f"why it has no score: {sample}")
        scored = sample["columns"]["columns_are_rows"] == 0
        expect((sample["reward"] is not None) == scored, f"unscored samples alone have no reward: {sample}")
        expect(scored or sample["advantage"] == 0, f"and move nothing: {sample}")
    expect(sum(line["num_unscored"] for line in run.steps()) == sum(s["reward"] is None for s in samples), "they are counted")
    faulted = sum(line["num_faulted"] for line in run.steps())
    expect(faulted == sum("faults" in sample for sample in samples), "and those of faults")
    expect("reward moody at evaluation, prompts.jsonl:2, completion 0: " in error, f"also in evaluations: {error}")


@test
def a_fault_costs_its_sample_all_rewards(make):
    """Else what breaks a penalty would be worth more than what it judges; None leaves out its own term."""
    run = make("penalty")
    (run.file.parent / "grader.py").write_text(PENALTY)
    run.train('rewards=[{name: regex, pattern: "[aeiou]"}, {python: "grader.py:penalty", weight: 0.5}]')
    samples = run.lines("completions.jsonl")
    kinds = [len(sample["completion"]) % 5 for sample in samples]
    expect(set(kinds) == set(range(5)), f"all that can become of a sample: {kinds}")
    for start in range(0, len(samples), 4):
        group = samples[start : start + 4]
        counting = []
        for sample in group:
            kind = len(sample["completion"]) % 5
            score = {3: -0.5, 4: -0.25}.get(kind, 0.0)
            if kind < 2:
                expect(sample["reward"] is None and sample["advantage"] == 0, f"a fault costs the sample: {sample}")
                expect(list(sample["faults"]) == ["penalty"], f"with its reason: {sample}")
            else:
                expect(sample["reward"] == sample["rewards"]["regex"] + score, f"the sum of what is there: {sample}")
                expect("faults" not in sample, f"None is no fault: {sample}")
                counting.append(sample["reward"])
            expect(sample["rewards"]["regex"] is not None, f"what the other reward said can be seen: {sample}")
        mean = sum(counting) / max(len(counting), 1)
        spread = (sum((reward - mean) ** 2 for reward in counting) / max(len(counting) - 1, 1)) ** 0.5
        for sample in group:
            wanted = 0 if sample["reward"] is None or spread < 1e-8 else (sample["reward"] - mean) / (spread + 1e-4)
            expect(abs(sample["advantage"] - wanted) < 1e-6, f"the group is what counts of it, {counting}: {sample}")
    for step in run.steps():
        mine = [sample for sample in samples if sample["step"] == step["step"]]
        counting = [sample["reward"] for sample in mine if sample["reward"] is not None]
        expect(abs(step["reward"] - sum(counting) / len(counting)) < 1e-9, f"nor in the batch's mean: {step}")
        expect(step["num_faulted"] == step["num_unscored"] == 16 - len(counting), f"they are counted: {step}")


@test
def a_reward_that_is_lost_ends_the_job(make):
    run = make("lost")
    (run.file.parent / "grader.py").write_text(PENALTY)
    rewards = 'rewards=[{name: regex, pattern: "[aeiou]"}, {python: "grader.py:mortal", max_restarts: 2}]'
    run.train(rewards, "train.max_steps=1")
    begin = run.lines("completions.jsonl")
    broken = run.file.parent / "broken"
    broken.touch()
    _, error = run.train(rewards, "train.max_steps=3", code=3)
    expect('rewards[1]: the reward "mortal" cannot be asked any more: ' in error, f"it is named: {error}")
    why = "its children were replaced max_restarts (2) times; of the last one: ended with exit code 3"
    expect(why in error, f"and why: {error}")
    expect(run.lines("completions.jsonl") == begin and len(run.steps()) == 1, "nothing was learnt without it")
    broken.unlink()
    result, _ = run.train(rewards, "train.max_steps=3")
    expect(result["steps"] == 3 and result["resumed_from"], f"the checkpoint before stays: {result}")


@test
def rewards_that_never_worked_are_no_success(make):
    run = make("never")
    (run.file.parent / "never.py").write_text("def never(completions, **rest):\n    raise ValueError('out of order')\n")
    _, error = run.train('rewards=[{python: "never.py:never"}]', code=3)
    expect("the rewards failed at every batch" in error, error)
    expect(len(run.steps()) == 3, "and yet cost samples alone")
    run.train('rewards=[{python: "never.py:never"}]', code=3)
    expect(not (run.dir / "adapter").exists(), "started again it is none either")
    expect("out of order" in error, f"the reason is told: {error}")
    samples = run.lines("completions.jsonl")
    expect(samples and all(sample["reward"] is None for sample in samples), f"they can be looked at: {samples}")
    (run.file.parent / "none.py").write_text("def none(completions, **rest):\n    return [None] * len(completions)\n")
    result, _ = make("none").train('rewards=[{python: "none.py:none"}]')
    expect(result["steps"] == 3, f"None is no failure: {result}")
    (run.file.parent / "late.py").write_text(LATE)
    result, error = make("late").train('rewards=[{python: "late.py:late"}]')
    expect(result["steps"] == 3 and "has gone" in error, f"later failures cost their samples: {result}")
    (run.file.parent / "gone.py").write_text(GONE)
    resumed, rewards = make("resumed"), 'rewards=[{python: "gone.py:gone"}]'
    resumed.train(rewards, "train.max_steps=2")
    (run.file.parent / "gone").touch()
    result, error = resumed.train(rewards, "train.max_steps=3")
    expect(result["resumed_from"] and result["steps"] == 3 and "has gone" in error, f"also those behind a resumption: {result}")


@test
def prompts_that_are_too_long_follow_the_job(make):
    run = make("long")
    _, error = run.train("data.max_length=4", "data.over_length=raise", code=2)
    expect("prompts.jsonl: a prompt has" in error and "data.max_length is 4" in error, error)
    _, error = run.train("data.max_length=4", "data.over_length=drop", code=2)
    expect("no prompt is left" in error and ".yaml:4:" in error, error)
    _, error = run.train("data.max_length=4")
    expect("cuts the beginning off 24 prompts" in error, error)


def runs_in(folder, program, model):
    with open(folder / "prompts.jsonl", "w") as out:
        for i in range(12):
            out.write(json.dumps({"prompt": f"one two three {i}", "columns_are_rows": i % 3}) + "\n")
    return lambda label: Run(program, model, folder, label)


def main(program, model, names):
    run_tests(names, lambda folder: runs_in(folder, program, model))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve(), sys.argv[3:])
