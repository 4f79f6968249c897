// The page's frame: what the run was, how it is set, which files it left.

const data = JSON.parse(document.getElementById("data").textContent);

function lastPart(path) {
  const parts = path.split("/").filter((part) => part !== "");
  return parts[parts.length - 1] ?? path;
}

function about({job, totals}) {
  const parts = [];
  if (job) {
    const task = {sft: "Supervised fine-tuning", grpo: "GRPO"}[job.task] ?? job.task;
    parts.push(el("strong", {}, task || "Training"), job.model ? [" of ", el("strong", {}, textNodes(lastPart(job.model)))] : null);
    if (job.r !== null) {
      const modules = job.target_modules ? ` on ${job.target_modules}` : "";
      parts.push(` \u00b7 LoRA r ${numberText(job.r)}` + (job.lora_alpha === null ? "" : `, alpha ${numberText(job.lora_alpha)}`) + modules);
    }
    if (job.dtype) parts.push(` \u00b7 ${job.dtype}`);
    if (job.learning_rate !== null) parts.push(` \u00b7 learning rate ${numberText(job.learning_rate)}`);
  }
  if (totals.steps !== null && job?.max_steps)
    parts.push(totals.steps >= job.max_steps ? " \u00b7 all steps done" : ` \u00b7 at step ${numberText(totals.steps)} of ${numberText(job.max_steps)}`);
  document.getElementById("about").append(...parts.flat().filter((part) => part !== null));
}

function tiles({job, totals, adapter, metrics}) {
  const holder = document.getElementById("tiles");
  const tile = (name, text, more) => {
    if (text === null || text === undefined) return;
    holder.append(el("div", {}, el("dt", {}, name), el("dd", {}, text, more ? el("small", {}, more) : null)));
  };
  const number = (value) => (value === null ? null : numberText(value));
  if (totals.steps !== null)
    tile("steps", numberText(totals.steps), job?.max_steps ? `of ${numberText(job.max_steps)}` : null);
  if (totals.last_reward !== null) tile("reward", number(totals.last_reward), `from ${numberText(totals.first_reward)}; means of a tenth of the steps`);
  if (totals.last_loss !== null) tile("loss", number(totals.last_loss), `from ${numberText(totals.first_loss)}`);
  if (totals.last_eval_loss !== null)
    tile("evaluation loss", number(totals.last_eval_loss),
         `best ${numberText(totals.best_eval_loss)} at step ${numberText(totals.best_eval_step)}`);
  if (totals.elapsed_s !== null)
    tile("time", secondsText(totals.elapsed_s), totals.steps > 0 ? `${secondsText(totals.elapsed_s / totals.steps)} a step` : null);
  if (totals.num_tokens !== null)
    tile("tokens", countText(totals.num_tokens), totals.tokens_per_second === null ? null : `${numberText(Math.round(totals.tokens_per_second))} a second`);
  if (totals.peak_rss_bytes !== null) tile("peak memory", bytesText(totals.peak_rss_bytes));
  if (adapter)
    tile("adapter", bytesText(adapter.bytes), `${countText(adapter.parameters)} parameters in ${numberText(adapter.tensors)} tensors`);
  if (holder.children.length === 0) holder.remove();
}

function notes({notes: lines}) {
  if (lines.length === 0) return;
  document.getElementById("notes").append(el("div", {class: "note", role: "note"},
      el("ul", {}, lines.map((line) => el("li", {}, textNodes(line))))));
}

/** "key:" of YAML lines in a colour of its own. */
function configuration({job}) {
  const body = document.getElementById("settings-body");
  if (!job) {
    body.append(el("p", {class: "empty"}, "config.yaml is not there."));
    return;
  }
  const lines = job.text.replace(/\n$/, "").split("\n").flatMap((line) => {
    const key = line.match(/^(\s*(?:- )?)([A-Za-z_][\w./-]*)(:(?: .*)?)$/);
    return key ? [key[1], el("span", {class: "key"}, key[2]), ...textNodes(key[3] + "\n")] : [...textNodes(line + "\n")];
  });
  body.append(el("details", {class: "settings"}, el("summary", {}, "config.yaml, the job with every default written out"),
      el("pre", {}, lines)));
}

function files({adapter, checkpoints}) {
  const rows = [];
  const row = (name, what, bytes) => rows.push(el("tr", {}, el("td", {class: "mono"}, textNodes(name)), el("td", {}, textNodes(what)),
      el("td", {class: "number"}, bytesText(bytes))));
  if (adapter) row("adapter", `${adapter.kind}, ${numberText(adapter.parameters)} parameters in ${numberText(adapter.tensors)} tensors`, adapter.bytes);
  for (const checkpoint of checkpoints) row("checkpoints/" + checkpoint.name, "checkpoint", checkpoint.bytes);
  const body = document.getElementById("files-body");
  body.append(rows.length === 0 ? el("p", {class: "empty"}, "Neither adapter nor checkpoint is written yet.")
      : el("table", {class: "table"}, el("thead", {}, el("tr", {}, el("th", {}, "in the run directory"), el("th", {}, "what"),
          el("th", {class: "number"}, "size"))), el("tbody", {}, rows)));
}

function contents() {
  const links = [...document.querySelectorAll("main > section:not([hidden])")].map((section) =>
      el("a", {href: "#" + section.id}, section.querySelector("h2").textContent));
  document.getElementById("contents").append(...links);
}

/** On paper everything is light and unfolded. */
function preparePrinting() {
  let closed = [];
  window.addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    applyTheme();
    for (const details of closed) details.open = false;
  });
}

applyTheme();
document.getElementById("theme").addEventListener("click", nextTheme);
systemDark.addEventListener("change", applyTheme);
about(data);
tiles(data);
notes(data);
const view = drawCurves(data.metrics);
drawRewards(data.histograms, data.samples, view);
drawSamples(data);
configuration(data);
files(data);
contents();
preparePrinting();
document.getElementById("written").textContent = "Written by tailor report, " + data.written + ".";
