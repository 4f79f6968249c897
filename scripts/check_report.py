#!/usr/bin/env python3
"""Opens what `tailor report` writes in a real browser (chromium without a window) and uses it: curves, range, table,
search. The run holds texts that try to become script, and numbers that are none.

    scripts/check_report.py [TAILOR] [--run DIR] [--screenshots DIR]    TAILOR: the program (build/cpu/tailor)

Needs chromium (Debian: apt-get install chromium). With --run the page is that of a run directory of yours, and only
errors of its script are looked for.
"""

import argparse
import html
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

HOSTILE = "</script><script>window.taken = 1</script><img src=x onerror='window.taken = 1'> <!-- {{data}} \x00\x1b[31m \u202e"
# Columns of which some jobs alone have any; each has a place among the curves.
NAMED = """approx_kl num_faulted num_unscored num_gen_batches num_discarded_groups staleness frac_rejected_tokens
           frac_rejected_sequences num_off_policy_sequences vespo/phi_seq_mean num_clamped_ratios logprob_difference/max
           frac_reused_tokens reward_busy_s eval_reward_std eval_num_unscored aux_loss seq_aux_loss z_loss router/max_load
           router/dropped""".split()
COLLECT = "<script>window.failures = []; window.onerror = (text) => { window.failures.push(text); };</script>"
# What a reader does; the answer is left in the page.
USE = """<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
  const rows = () => document.querySelectorAll("tr.sample").length;
  const seen = {charts: document.querySelectorAll("#charts figure").length, rows: rows()};
  const last = [...document.querySelectorAll("#charts h3")].at(-1);
  seen.others = last?.textContent === "Other" ? last.nextElementSibling.querySelectorAll("figure").length : 0;
  if (view) {
    const d = () => document.querySelector("#charts figure path.line").getAttribute("d");
    const whole = d();
    view.setRange(3, 9);
    seen.zooms = d() !== whole;
    document.querySelector("#charts svg").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
    seen.cursor = document.getElementById("live").textContent;
    for (const button of document.querySelectorAll("#charts figcaption button:not(:disabled)")) button.click();
    view.reset();
  }
  if (rows() > 0) {
    document.querySelector("tr.sample button").click();
    seen.completion = document.querySelector("tr.detail pre.completion").textContent;
    const search = document.querySelector("input[type=search]");
    search.value = "ANSWER 7 ";
    search.dispatchEvent(new Event("input"));
    await wait(400);
    seen.found = rows();
    seen.marked = document.querySelectorAll("mark").length;
  }
  document.getElementById("theme").click();
  seen.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  seen.images = document.images.length;
  seen.taken = window.taken ?? null;
  seen.failures = window.failures;
  document.body.append(el("output", {id: "seen"}, JSON.stringify(seen)));
})();
</script>"""


def write_run(folder):
    rng = random.Random(1)
    with open(folder / "metrics.jsonl", "w") as out:
        for step in range(1, 41):
            row = {"step": step, "loss": rng.gauss(0, 0.01), "reward": rng.random(), "reward_std": 0.1, "kl": 1e-9 * step,
                   "learning_rate": 1e-5, "grad_norm": "inf" if step == 5 else rng.random(), "rewards/a/mean": 0.5,
                   "rewards/" + HOSTILE + "/mean": None if step < 3 else 0.25, "step_time_s": 2.0, "num_tokens": 100 * step,
                   "rss_bytes": 10**9 + step, HOSTILE: "nan", "mismatch/ess": 1.0 - 1e-9 * step, "greatest": 1e308,
                   **{name: 0.5 for name in NAMED},
                   "reward_histogram": {"edges": [0, 0.5, 1], "counts": [step, 40 - step]}}
            out.write(json.dumps(row) + "\n")
    with open(folder / "completions.jsonl", "w") as out:
        for i in range(60):
            row = {"step": i // 4, "prompt": [{"role": "user", "content": HOSTILE}], "completion": f"answer {i} {HOSTILE}",
                   "rewards": {HOSTILE: None}, "reward": i / 10, "advantage": None, "finish_reason": "stop", HOSTILE: HOSTILE}
            out.write(json.dumps(row) + "\n")
    (folder / "config.yaml").write_text("task: grpo\nmodel: {name_or_path: '</script><b>'}\n")


def browse(browser, folder, page, *options):
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile",
               "--virtual-time-budget=5000", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def use(browser, folder, page):
    copy = folder / "used.html"
    text = page.read_text().replace("<style>", COLLECT + "<style>", 1)
    copy.write_text(text.replace("</body>", USE + "</body>"))
    found = re.search(r'<output id="seen">(.*?)</output>', browse(browser, folder, copy, "--window-size=1200,900", "--dump-dom"), re.DOTALL)
    if not found:
        sys.exit(f"{page}: its script did not come to an end")
    return json.loads(html.unescape(found[1]))


def photograph(browser, folder, page, target):
    target.mkdir(parents=True, exist_ok=True)
    fresh = folder / "photographs"  # use() has chosen colours, which the browser keeps
    for name, scheme, size in (("light", 1, "1300,4500"), ("dark", 0, "1300,4500"), ("narrow", 1, "500,9000")):
        browse(browser, fresh, page, f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={size}",
               f"--screenshot={target / (page.parent.name + '-' + name + '.png')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tailor", nargs="?", default="build/cpu/tailor")
    parser.add_argument("--run", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path)
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        sys.exit("no chromium found: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        run = options.run or folder / "run"
        if not options.run:
            run.mkdir()
            write_run(run)
        page = folder / run.resolve().name / "page.html"
        page.parent.mkdir(exist_ok=True)
        subprocess.run([options.tailor, "report", run, "--output", page], check=True)
        seen = use(browser, folder, page)
        expected = {"failures": [], "taken": None, "images": 0, "wide": False}
        if not options.run:
            shown = f"answer 56 {HOSTILE}".replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\u202e", "U+202E")
            expected |= {"charts": 28, "others": 2, "rows": 20, "zooms": True, "completion": shown, "found": 1, "marked": 1}
        wrong = [f"{key}: expected {value!r}, found {seen.get(key)!r}" for key, value in expected.items() if seen.get(key) != value]
        if options.screenshots:
            photograph(browser, folder, page, options.screenshots)
    print(*wrong or [f"{seen['charts']} charts, {seen['rows']} rows of samples, no error"], sep="\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
