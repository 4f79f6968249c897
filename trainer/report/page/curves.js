// Which columns become which charts. A column that is not named here has a chart of its own, under "other".

const kGroups = [
  {title: "Reward", charts: [
    {title: "Reward", hint: "mean over all completions of a step", series: ["reward", "eval_reward"], spread: "reward_std",
     labels: {reward: "training", eval_reward: "evaluation"}},
    {title: "Rewards by name", hint: "mean of each before its weight", pattern: /^(?:eval_)?rewards\/(.+)\/mean$/},
    {title: "Spread of rewards", hint: "standard deviations", series: ["reward_std", "eval_reward_std"],
     labels: {reward_std: "all together", eval_reward_std: "all together, evaluation"},
     pattern: /^(?:eval_)?rewards\/(.+)\/std$/},
    {title: "Groups without signal", hint: "share of groups whose completions all have one reward", series: ["frac_reward_zero_std"]},
    {title: "Samples without a score", hint: "of a batch; those that a failing reward cost, with the discarded ones",
     series: ["num_unscored", "num_faulted", "eval_num_unscored"],
     labels: {num_unscored: "all", num_faulted: "a reward failed", eval_num_unscored: "all, evaluation"}},
    {title: "Rounds of sampling", hint: "until a batch had groups with spread", series: ["num_gen_batches"]},
    {title: "Groups thrown away", hint: "of a batch, as their completions all had one reward", series: ["num_discarded_groups"]},
  ]},
  {title: "Learning", charts: [
    {title: "Loss", series: ["loss", "eval_loss"], labels: {loss: "training", eval_loss: "evaluation"}, unless: "reward"},
    {title: "Policy loss", series: ["loss"]},
    {title: "Loss of evaluation", series: ["eval_loss"]},
    {title: "Token accuracy", hint: "supervised tokens that the argmax hits", series: ["mean_token_accuracy", "eval_mean_token_accuracy"],
     labels: {mean_token_accuracy: "training", eval_mean_token_accuracy: "evaluation"}},
    {title: "Perplexity of evaluation", series: ["eval_perplexity"]},
    {title: "Norm of the gradient", hint: "before clipping", series: ["grad_norm"]},
    {title: "Learning rate", series: ["learning_rate"], still: true},
  ]},
  {title: "Policy", charts: [
    {title: "KL divergence", hint: "from the reference, the model without adapter", series: ["kl"]},
    {title: "Divergence of an update", hint: "from the weights that sampled its batch", series: ["approx_kl"]},
    {title: "Entropy", hint: "nats a token", series: ["entropy"]},
    {title: "Clipped tokens", hint: "share whose probability ratio left the trust region",
     series: ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"],
     labels: {"clip_ratio/low_mean": "below", "clip_ratio/high_mean": "above", "clip_ratio/region_mean": "either"}},
    {title: "Clipped tokens, extremes", hint: "of the micro-batches of a step", series: ["clip_ratio/low_min", "clip_ratio/high_max"],
     labels: {"clip_ratio/low_min": "least below", "clip_ratio/high_max": "most above"}},
    {title: "Probability ratio", hint: "of a token, new over old policy", series: ["ratio/mean", "ratio/max"],
     labels: {"ratio/mean": "mean", "ratio/max": "greatest"}},
    {title: "Change of log-probabilities", hint: "the greatest of a token, new against old policy", series: ["logprob_difference/max"]},
    {title: "Cut ratios", hint: "ratios so far from 1 that they are cut", series: ["num_clamped_ratios"]},
    {title: "Bad sequences left out", hint: "which the policy has left behind", series: ["num_off_policy_sequences"]},
    {title: "Weight of a sequence", hint: "VESPO's, in the mean", series: ["vespo/phi_seq_mean"]},
  ]},
  {title: "Completions", charts: [
    {title: "Length of completions", hint: "tokens; mean, shortest and longest",
     series: ["completions/mean_length", "eval_completions/mean_length"], range: ["completions/min_length", "completions/max_length"],
     labels: {"completions/mean_length": "mean", "eval_completions/mean_length": "mean, evaluation"}},
    {title: "Length of those that ended", hint: "tokens; mean, shortest and longest", series: ["completions/mean_terminated_length"],
     range: ["completions/min_terminated_length", "completions/max_terminated_length"],
     labels: {"completions/mean_terminated_length": "mean"}},
    {title: "Ends of completions", hint: "shares",
     series: ["completions/clipped_ratio", "completions/eos_token_ratio", "completions/stop_string_ratio"],
     labels: {"completions/clipped_ratio": "cut at the limit", "completions/eos_token_ratio": "end token",
              "completions/stop_string_ratio": "stop string"}},
  ]},
  {title: "Sampler against trainer", charts: [
    {title: "Difference of log-probabilities", hint: "of a token, absolute", series: ["mismatch/mean_difference", "mismatch/max_difference"],
     labels: {"mismatch/mean_difference": "mean", "mismatch/max_difference": "greatest"}},
    {title: "Divergence k3", hint: "of the sampler's probabilities from the trainer's", series: ["mismatch/k3"]},
    {title: "Far tokens", hint: "share whose probability differs by more than a factor of 2", series: ["mismatch/f2"]},
    {title: "Greatest ratio", hint: "of the two probabilities of one token", series: ["mismatch/max_ratio"]},
    {title: "Ratio of perplexities", hint: "trainer over sampler", series: ["mismatch/ppl_ratio"]},
    {title: "Effective sample size", hint: "share of the tokens", series: ["mismatch/ess"]},
    {title: "Rejected", hint: "shares that leave the loss", series: ["frac_rejected_tokens", "frac_rejected_sequences"],
     labels: {frac_rejected_tokens: "tokens", frac_rejected_sequences: "sequences"}},
    {title: "Staleness", hint: "optimizer steps between the weights that sampled a batch and its first update", series: ["staleness"]},
  ]},
  {title: "Routers", charts: [
    {title: "Losses of balance", hint: "before their coefficients, means over sparse layers", series: ["aux_loss", "seq_aux_loss"],
     labels: {aux_loss: "of all documents", seq_aux_loss: "within each"}},
    {title: "Size of router logits", hint: "z-loss before its coefficient", series: ["z_loss"]},
    {title: "Busiest expert", hint: "its load over the mean", series: ["router/max_load"]},
    {title: "Dropped pairs", hint: "share that the experts' capacity turned away", series: ["router/dropped"]},
  ]},
  {title: "Speed and memory", charts: [
    {title: "Tokens a second", series: ["tokens_per_second", "supervised_tokens_per_second", "rollout_tokens_per_second",
                                        "update_tokens_per_second"],
     labels: {tokens_per_second: "all", supervised_tokens_per_second: "supervised", rollout_tokens_per_second: "sampled in rollouts",
              update_tokens_per_second: "in updates"}},
    {title: "Reused tokens", hint: "share of an update's tokens whose forward pass was made by sampling", series: ["frac_reused_tokens"]},
    {title: "Time of a step", unit: "seconds", series: ["step_time_s", "rollout_time_s", "update_time_s", "reward_time_s", "measure_time_s"],
     labels: {step_time_s: "step", rollout_time_s: "rollout", update_time_s: "update", reward_time_s: "rewards",
              measure_time_s: "log-probabilities"}},
    {title: "Time that rewards took", hint: "all workers together", unit: "seconds", series: ["reward_busy_s"]},
    {title: "Time of an evaluation", unit: "seconds", series: ["eval_runtime_s"]},
    {title: "Memory", hint: "resident, of the process", unit: "bytes", series: ["rss_bytes"], still: true},
  ]},
];
const kMaxSeries = 8;

/** Columns that are an axis, or the same at every line. */
const kNoCurve = new Set(["epoch", "num_tokens", "elapsed_s", "eval_num_tokens", "eval_num_prompts"]);

function isEval(name) { return name.startsWith("eval_"); }

function unitOf(name) {
  if (/_bytes$|\/bytes$/.test(name)) return "bytes";
  if (/(^|[_/])(time|runtime|elapsed)_s$/.test(name)) return "seconds";
  return undefined;
}

/** The charts of a template that the columns can fill; marks the columns they take. */
function chartsOf(template, columns, taken) {
  if (template.unless && template.unless in columns) return [];
  const take = (name) => name in columns && !taken.has(name) && Boolean(taken.add(name));
  const names = (template.series ?? []).filter(take);
  if (template.pattern) {
    const found = Object.keys(columns).filter((name) => template.pattern.test(name) && take(name));
    names.push(...found.filter((name) => !isEval(name)), ...found.filter(isEval));
  }
  if (names.length === 0) return [];
  const label = (name) => {
    const part = template.pattern?.exec(name)?.[1];
    return template.labels?.[name] ?? (part === undefined ? name : isEval(name) ? part + ", evaluation" : part);
  };
  const series = names.map((name) => ({name, label: label(name), eval: isEval(name)}));
  if (series.length > kMaxSeries) {
    const charts = [];
    for (let i = 0; i < series.length; i += kMaxSeries) charts.push({...template, series: series.slice(i, i + kMaxSeries)});
    return charts;
  }
  const chart = {...template, series};
  const main = names[0];
  if (template.spread && template.spread in columns)
    chart.band = {around: main, by: template.spread, label: "\u00b1 one standard deviation"};
  if (template.range && template.range.every((name) => name in columns)) {
    template.range.forEach(take);
    chart.band = {low: template.range[0], high: template.range[1], label: "shortest to longest"};
  }
  return [chart];
}

function drawCurves(metrics) {
  const holder = document.getElementById("charts");
  if (metrics.steps.length === 0) {
    holder.append(el("p", {class: "empty"}, "No step is logged yet."));
    return null;
  }
  const view = new View(metrics);
  view.smoothing = metrics.steps.length < 30 ? 0 : metrics.steps.length < 200 ? 0.6 : 0.9;
  const columns = metrics.columns, taken = new Set(kNoCurve), charts = [];
  const addGroup = (title, templates) => {
    const group = templates.flatMap((template) => chartsOf(template, columns, taken)).map((spec) => new Chart(spec, view));
    if (group.length === 0) return;
    charts.push(...group);
    holder.append(el("h3", {}, title), el("div", {class: "charts"}, group.map((chart) => chart.element)));
  };
  for (const group of kGroups) addGroup(group.title, group.charts);
  addGroup("Other", Object.keys(columns).filter((name) => !taken.has(name))
      .map((name) => ({title: name, unit: unitOf(name), series: [name], labels: {[name]: "value"}})));

  document.getElementById("controls").append(...controlsOf(view));
  if (metrics.rows_a_point > 1)
    holder.prepend(el("p", {class: "dim"}, `A point is the mean of ${numberText(metrics.rows_a_point)} logged steps; ` +
        "the shade about a curve goes from the least to the greatest of them."));
  const redraw = () => charts.forEach((chart) => chart.draw());
  view.onDraw.push(redraw);
  view.onCursor.push(() => charts.forEach((chart) => chart.drawCursor()));
  view.draw();
  let width = holder.clientWidth;
  new ResizeObserver(() => {
    if (holder.clientWidth === width) return;
    width = holder.clientWidth;
    redraw();
  }).observe(holder);
  return view;
}
