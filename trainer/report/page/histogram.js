// How the rewards of a step were spread, step by step.

const kBins = 20;

/** Histograms of the samples' rewards, for a run that logged none. */
function histogramsOf(samples) {
  const rewards = samples.filter((sample) => typeof sample.reward === "number" && typeof sample.step === "number");
  if (rewards.length === 0) return [];
  let low = Infinity, high = -Infinity;
  for (const {reward} of rewards) [low, high] = [Math.min(low, reward), Math.max(high, reward)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const edges = Array.from({length: kBins + 1}, (_, i) => low + (high - low) * (i / kBins));
  const steps = new Map();
  for (const {step, reward} of rewards) {
    if (!steps.has(step)) steps.set(step, {step, edges, counts: new Array(kBins).fill(0)});
    const bin = Math.min(kBins - 1, Math.floor(((reward - low) / (high - low)) * kBins));
    ++steps.get(step).counts[bin];
  }
  return [...steps.values()].sort((a, b) => a.step - b.step);
}

const total = (histogram) => histogram.counts.reduce((sum, count) => sum + count, 0);

class RewardPicture {
  constructor(histograms, view) {
    this.all = histograms;
    this.view = view;
    this.chosen = null;
    this.map = svgEl("svg", {tabindex: 0, role: "img"});
    this.bars = svgEl("svg", {role: "img"});
    this.title = el("b", {});
    this.readout = el("small", {});
    this.element = el("div", {class: "rewards"},
        el("figure", {class: "chart"}, el("figcaption", {}, el("span", {}, el("b", {}, "Share of completions by reward"),
            el("small", {}, "the stronger the colour, the more of a step's completions; point at a step, or use the arrow keys"))), this.map, this.readout),
        el("figure", {class: "chart"}, el("figcaption", {}, el("span", {}, this.title)), this.bars));
    const at = (event) => {
      const box = this.map.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.width - this.left;
      return Math.floor((x / (this.width - this.left - 10)) * this.shown.length);
    };
    this.map.addEventListener("pointermove", (event) => this.choose(at(event)));
    this.map.addEventListener("pointerdown", (event) => this.choose(at(event)));
    this.map.addEventListener("keydown", (event) => {
      const to = {ArrowLeft: this.index - 1, ArrowRight: this.index + 1, Home: 0, End: this.shown.length - 1}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.choose(to);
      document.getElementById("live").textContent = this.title.textContent + ": " + this.bars.getAttribute("aria-label");
    });
  }

  get index() {
    const found = this.shown.findIndex((histogram) => histogram.step === this.chosen);
    return found < 0 ? this.shown.length - 1 : found;
  }

  choose(index) {
    const next = this.shown[Math.min(Math.max(index, 0), this.shown.length - 1)]?.step;
    if (next === undefined || next === this.chosen) return;
    this.chosen = next;
    this.drawChosen();
  }

  draw() {
    const steps = this.view?.metrics.steps;
    const [from, to] = steps ? [this.view.zoomed ? steps[this.view.first] : -Infinity, this.view.zoomed ? steps[this.view.last] : Infinity]
        : [-Infinity, Infinity];
    const inRange = this.all.filter(({step}) => step >= from && step <= to);
    this.shown = inRange.length > 0 ? inRange : this.all;
    // Where nothing is, the axis need not be.
    let [low, high] = [Infinity, -Infinity];
    for (const {edges, counts} of this.shown)
      counts.forEach((count, bin) => {
        if (count > 0) [low, high] = [Math.min(low, edges[bin]), Math.max(high, edges[bin + 1])];
      });
    if (low > high) [low, high] = [0, 1];
    this.low = low;
    this.high = high > low ? high : low + 1;
    this.width = Math.round(this.map.clientWidth) || 640;
    this.greatest = Math.max(1e-9, ...this.shown.map((histogram) => Math.max(...histogram.counts) / Math.max(1, total(histogram))));
    const ticks = linearTicks(this.low, this.high, 5), text = tickFormat(ticks);
    this.left = Math.max(30, 12 + kCharacter * Math.max(...ticks.map((tick) => text(tick).length)));
    const right = this.width - 10, columns = this.shown.length, wide = (right - this.left) / columns;
    this.py = (y) => 186 - ((y - this.low) / (this.high - this.low)) * 176;
    const parts = [];
    this.shown.forEach((histogram, i) => {
      const all = Math.max(1, total(histogram));
      histogram.counts.forEach((count, bin) => {
        if (count === 0) return;
        const top = this.py(histogram.edges[bin + 1]), floor = this.py(histogram.edges[bin]);
        // The eye tells light shades better than dark ones: a root gives rare rewards a colour.
        parts.push(svgEl("rect", {class: "cell", x: (this.left + i * wide).toFixed(2), y: top.toFixed(2), width: Math.max(1, wide).toFixed(2),
            height: Math.max(4, floor - top).toFixed(2), "fill-opacity": Math.sqrt(count / all / this.greatest).toFixed(3)}));
      });
    });
    for (const tick of ticks)
      parts.push(svgEl("line", {class: "grid", x1: this.left - 4, x2: this.left, y1: this.py(tick), y2: this.py(tick)}),
          svgEl("text", {x: this.left - 7, y: this.py(tick) + 4, "text-anchor": "end"}, text(tick)));
    parts.push(svgEl("line", {class: "axis", x1: this.left, x2: right, y1: 186, y2: 186}));
    const room = Math.max(2, Math.floor((right - this.left) / 75));
    for (const tick of linearTicks(this.shown[0].step, this.shown[columns - 1].step, room, true)) {
      const i = this.shown.findIndex(({step}) => step >= tick);
      parts.push(svgEl("text", {x: this.left + (i + 0.5) * wide, y: 203, "text-anchor": "middle"}, numberText(this.shown[i].step)));
    }
    this.map.setAttribute("viewBox", `0 0 ${this.width} ${kHeight}`);
    this.map.setAttribute("aria-label", `rewards of ${columns} steps, from ${numberText(low)} to ${numberText(high)}`);
    this.frame = svgEl("rect", {fill: "none", stroke: "currentColor", y: 9, height: 178, width: Math.max(2, wide)});
    this.map.replaceChildren(...parts, this.frame);
    this.wide = wide;
    this.drawChosen();
  }

  drawChosen() {
    const histogram = this.shown[this.index];
    this.frame.setAttribute("x", this.left + this.index * this.wide);
    this.title.textContent = `Step ${numberText(histogram.step)}`;
    const width = Math.round(this.bars.clientWidth) || 320, most = Math.max(1, ...histogram.counts), all = Math.max(1, total(histogram));
    const ticks = linearTicks(this.low, this.high, 5), text = tickFormat(ticks);
    const parts = ticks.map((tick) => svgEl("text", {x: this.left - 7, y: this.py(tick) + 4, "text-anchor": "end"}, text(tick)));
    parts.push(svgEl("line", {class: "axis", x1: this.left, x2: this.left, y1: 10, y2: 186}));
    const words = [], labelled = [];
    const bins = [...histogram.counts.keys()].filter((bin) => histogram.counts[bin] > 0);
    for (const bin of bins.sort((a, b) => histogram.counts[b] - histogram.counts[a])) {
      const count = histogram.counts[bin];
      const top = this.py(histogram.edges[bin + 1]), floor = this.py(histogram.edges[bin]);
      const long = ((width - this.left - 84) * count) / most;
      parts.push(svgEl("rect", {class: "bar", x: this.left, y: top + 0.5, width: Math.max(1, long), height: Math.max(4, floor - top - 1)}));
      const middle = (top + floor) / 2 + 4;
      if (labelled.every((other) => Math.abs(other - middle) >= 11)) {  // those of thin bars would lie on each other
        parts.push(svgEl("text", {class: "bar-text", x: this.left + long + 5, y: middle}, `${numberText(count)} (${Math.round((100 * count) / all)} %)`));
        labelled.push(middle);
      }
      words.push(`${numberText(histogram.edges[bin])} to ${numberText(histogram.edges[bin + 1])}: ${numberText(count)}`);
    }
    this.bars.setAttribute("viewBox", `0 0 ${width} ${kHeight}`);
    this.bars.setAttribute("aria-label", words.join("; ") || "no completion");
    this.bars.replaceChildren(...parts);
  }
}

function drawRewards(histograms, samples, view) {
  const logged = histograms.length > 0;
  const found = logged ? histograms : histogramsOf(samples);
  if (found.length === 0) return;
  const section = document.getElementById("histogram");
  section.hidden = false;
  const picture = new RewardPicture(found, view);
  const body = document.getElementById("histogram-body");
  body.append(picture.element);
  if (!logged) body.prepend(el("p", {class: "dim"}, "Of the samples in this page; the run logged no histogram."));
  picture.draw();
  view?.onDraw.push(() => picture.draw());
  let width = body.clientWidth;
  new ResizeObserver(() => {
    if (body.clientWidth === width) return;
    width = body.clientWidth;
    picture.draw();
  }).observe(body);
}
