// What the reader has chosen: colours, and what all curves show.

const kThemes = {auto: "system", light: "light", dark: "dark"};
const systemDark = window.matchMedia("(prefers-color-scheme: dark)");

function storedTheme() {
  try {
    const theme = localStorage.getItem("tailor-report-theme");
    return theme in kThemes ? theme : "auto";
  } catch {  // storage is off
    return "auto";
  }
}

let theme = storedTheme();

function applyTheme() {
  const dark = theme === "dark" || (theme === "auto" && systemDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = "colours: " + kThemes[theme];
  button.title = "light, dark, or as the system has it";
}

function nextTheme() {
  const names = Object.keys(kThemes);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  try {
    localStorage.setItem("tailor-report-theme", theme);
  } catch {
    // It holds for this visit.
  }
  applyTheme();
}

/** Points are numbered; a range and the cursor are numbers of points, whatever the axis shows. */
class View {
  constructor(metrics) {
    this.metrics = metrics;
    this.x = "step";
    this.smoothing = 0;
    this.cursor = null;
    this.onDraw = [];
    this.onCursor = [];
    this.reset(false);
  }

  get numPoints() { return this.metrics.steps.length; }
  get zoomed() { return this.first > 0 || this.last < this.numPoints - 1; }

  reset(draw = true) {
    this.first = 0;
    this.last = Math.max(0, this.numPoints - 1);
    if (draw) this.draw();
  }

  setRange(first, last) {
    const ends = [first, last].map((i) => Math.min(Math.max(Math.round(i), 0), this.numPoints - 1)).sort((a, b) => a - b);
    [this.first, this.last] = ends;
    if (this.first === this.last && this.numPoints > 1) {
      if (this.last < this.numPoints - 1) ++this.last;
      else --this.first;
    }
    this.draw();
  }

  /** Halves or doubles the range around the cursor, or its middle. */
  zoom(factor) {
    const middle = this.cursor ?? (this.first + this.last) / 2;
    const half = Math.max(1, ((this.last - this.first) * factor) / 2);
    this.setRange(middle - half, middle + half);
  }

  setCursor(point) {
    if (point !== null) point = Math.min(Math.max(point, this.first), this.last);
    if (point === this.cursor) return;
    this.cursor = point;
    for (const told of this.onCursor) told();
  }

  draw() {
    if (this.cursor !== null && (this.cursor < this.first || this.cursor > this.last)) this.cursor = null;
    for (const told of this.onDraw) told();
  }

  /** The nearest point to a step. */
  pointOf(step) {
    const steps = this.metrics.steps;
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1;
      else high = middle;
    }
    return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
  }

  /** Places of the points on the x axis; a point without one has that of its predecessor. */
  xs() {
    if (this.x === "step") return this.metrics.steps;
    let last = 0;
    return this.metrics.columns[this.x].values.map((value) => (last = typeof value === "number" ? value : last));
  }

  get xUnit() { return this.x === "elapsed_s" ? "seconds" : "count"; }
  xLabel(point) {
    if (this.x === "step") return "step " + numberText(this.metrics.steps[point]);
    return "step " + numberText(this.metrics.steps[point]) + ", " +
        (this.x === "elapsed_s" ? secondsText(this.xs()[point]) : kAxes[this.x] + " " + numberText(this.xs()[point]));
  }
}

const kAxes = {step: "step", num_tokens: "tokens", epoch: "epoch", elapsed_s: "time"};

function controlsOf(view) {
  const axes = Object.keys(kAxes).filter((name) => name === "step" || name in view.metrics.columns);
  const from = el("input", {type: "number", "aria-label": "first step"});
  const to = el("input", {type: "number", "aria-label": "last step"});
  const reset = el("button", {type: "button", onclick: () => view.reset()}, "all steps");
  const range = () => view.setRange(view.pointOf(Number(from.value)), view.pointOf(Number(to.value)));
  from.addEventListener("change", range);
  to.addEventListener("change", range);
  const shown = el("output", {});
  const smoothing = el("input", {
    type: "range", min: 0, max: 0.98, step: 0.02, value: view.smoothing, "aria-label": "smoothing",
    oninput: () => {
      view.smoothing = Number(smoothing.value);
      view.draw();
    },
  });
  view.onDraw.push(() => {
    const steps = view.metrics.steps;
    from.value = steps[view.first];
    to.value = steps[view.last];
    for (const input of [from, to]) [input.min, input.max] = [steps[0], steps[steps.length - 1]];
    reset.disabled = !view.zoomed;
    shown.textContent = view.smoothing === 0 ? "off" : view.smoothing.toFixed(2);
  });
  const choice = el("select", {onchange: () => { view.x = choice.value; view.draw(); }},
      axes.map((name) => el("option", {value: name}, kAxes[name])));
  return [
    axes.length > 1 ? el("label", {}, "over", choice) : null,
    el("label", {}, "smoothing", smoothing, shown),
    el("label", {}, "steps", from, "to", to),
    reset,
    el("span", {class: "hint"}, "~ is the smoothed value. Drag over a curve to zoom in, double-click for all; arrow keys move the cursor, + and \u2212 zoom."),
  ].filter((part) => part !== null);
}
