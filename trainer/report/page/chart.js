// One chart: curves over a common axis, with a cursor that all charts share.

const kHeight = 210;
const kCharacter = 6.3;  // pixels, of the ticks' font

/** Exponential moving average without the pull of its start, as TensorBoard has it. Gaps stay gaps. */
function smoothed(values, weight) {
  let sum = 0, norm = 0;
  return values.map((value) => {
    if (typeof value !== "number") return value;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

class Chart {
  /** spec: {title, hint, unit, still, series: [{name, label, eval}], band}. The names are columns'; band is {low, high,
      label} or {around, by, label}; a curve that is `still` has no noise to be smoothed. */
  constructor(spec, view) {
    this.spec = spec;
    this.view = view;
    this.log = false;
    this.width = 0;
    this.svg = svgEl("svg", {tabindex: 0, role: "img"});
    this.logButton = el("button", {
      type: "button", "aria-pressed": String(this.log), title: "logarithmic axis",
      onclick: () => {
        this.log = !this.log;
        this.logButton.setAttribute("aria-pressed", String(this.log));
        this.draw();
      },
    }, "log");
    this.legend = el("ul", {class: "legend"});
    this.values = spec.series.map((series) => {
      const number = el("b", {}), smooth = el("span", {class: "dim"});
      return {number, smooth};
    });
    this.legend.append(...spec.series.map((series, i) => el("li", {},
        this.sample(series, i), el("span", {}, series.label), this.values[i].number, this.values[i].smooth)));
    if (spec.band)
      this.legend.append(el("li", {}, svgEl("svg", {"aria-hidden": true, viewBox: "0 0 22 10"},
          svgEl("rect", {class: "s0 band", width: 22, height: 10, style: "opacity:.3"})), el("span", {class: "dim"}, spec.band.label)));
    this.element = el("figure", {class: "chart"},
        el("figcaption", {}, el("span", {}, el("b", {}, spec.title), spec.hint ? el("small", {}, spec.hint) : null), this.logButton),
        this.svg, this.legend);
    this.listen();
  }

  sample(series, i) {  // of the legend
    return svgEl("svg", {"aria-hidden": true, viewBox: "0 0 22 10"},
        svgEl("path", {class: `line s${i % 8}` + (series.eval ? " eval" : ""), d: "M0 5H22"}),
        series.eval ? svgEl("circle", {class: `dots s${i % 8}`, cx: 11, cy: 5, r: 3.5}) : null);
  }

  column(name) { return this.view.metrics.columns[name]; }

  listen() {
    const svg = this.svg, view = this.view;
    const pointAt = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.width;
      const share = Math.min(Math.max((x - this.left) / (this.width - this.left - this.right), 0), 1);
      return this.nearest(this.x0 + share * (this.x1 - this.x0));
    };
    let begin = null;
    svg.addEventListener("pointerdown", (event) => {
      view.setCursor(pointAt(event));
      if (event.pointerType !== "mouse" || event.button !== 0) return;
      begin = {x: event.clientX, point: pointAt(event)};
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      view.setCursor(pointAt(event));
      if (begin) this.select(begin.point, view.cursor);
    });
    svg.addEventListener("pointerup", (event) => {
      if (begin && Math.abs(event.clientX - begin.x) > 8) view.setRange(begin.point, pointAt(event));
      begin = null;
      this.select(null);
    });
    svg.addEventListener("pointercancel", () => {
      begin = null;
      this.select(null);
    });
    svg.addEventListener("pointerleave", () => { if (!begin) view.setCursor(null); });
    svg.addEventListener("dblclick", () => view.reset());
    svg.addEventListener("blur", () => view.setCursor(null));
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const view = this.view;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = view.cursor ?? view.last, by = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowLeft: () => view.setCursor(at - (view.cursor === null ? 0 : by)), ArrowRight: () => view.setCursor(at + by),
      Home: () => view.setCursor(view.first), End: () => view.setCursor(view.last),
      "+": () => view.zoom(0.5), "=": () => view.zoom(0.5), "-": () => view.zoom(2),
      Escape: () => { view.setCursor(null); view.reset(); },
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
    if (view.cursor === null) return;
    document.getElementById("live").textContent = view.xLabel(view.cursor) + ": " + this.spec.series.map(
        (series) => series.label + " " + valueText(this.at(series.name, view.cursor).value, this.spec.unit)).join(", ");
  }

  /** The point in the range whose place is nearest to x. */
  nearest(x) {
    let best = this.view.first;
    for (let i = this.view.first; i <= this.view.last; ++i)
      if (Math.abs(this.xs[i] - x) < Math.abs(this.xs[best] - x)) best = i;
    return best;
  }

  /** A column's value at a point, or the latest one before it. */
  at(name, point) {
    const values = this.column(name).values;
    let i = point;
    while (i > 0 && values[i] === null) --i;
    return {value: values[i], point: i};
  }

  draw() {
    const view = this.view;
    const width = Math.round(this.svg.clientWidth) || this.width || 480;
    this.width = width;
    this.xs = view.xs();
    [this.x0, this.x1] = [this.xs[view.first], this.xs[view.last]];
    if (!(this.x1 > this.x0)) [this.x0, this.x1] = [this.x0 - 1, this.x0 + 1];
    this.smoothing = this.spec.still ? 0 : view.smoothing;
    this.smooth = this.spec.series.map((series) => {
      const {values} = this.column(series.name);
      return this.smoothing > 0 && !series.eval ? smoothed(values, this.smoothing) : values;
    });
    const extent = this.extent();
    const log = this.log && extent.positive;
    this.logButton.disabled = !extent.positive;
    const [low, high] = extent.low === null ? [0, 1] : withAir(...(log ? [extent.least, extent.high] : [extent.low, extent.high]), log);
    const yTicks = log ? logTicks(low, high, 5)
        : this.spec.unit === "seconds" ? secondTicks(low, high, 5)
        : this.spec.unit === "bytes" ? byteTicks(low, high, 5)
        : linearTicks(low, high, 5);
    const yText = tickFormat(yTicks, this.spec.unit, log);
    this.left = Math.max(30, 12 + kCharacter * Math.max(...yTicks.map((tick) => yText(tick).length), 0));
    this.right = 14;
    this.top = 16;
    this.bottom = 24;
    const share = scale(low, high, log);
    this.px = (x) => this.left + ((x - this.x0) / (this.x1 - this.x0)) * (width - this.left - this.right);
    this.py = (y) => kHeight - this.bottom - share(y) * (kHeight - this.top - this.bottom);
    this.visible = (value) => typeof value === "number" && (!log || value > 0);

    this.svg.setAttribute("viewBox", `0 0 ${width} ${kHeight}`);
    this.svg.replaceChildren(...this.axes(yTicks, yText), ...this.bands(), ...this.lines(), ...this.oddMarks());
    if (extent.low === null) this.svg.append(svgEl("text", {x: width / 2, y: kHeight / 2, "text-anchor": "middle"}, "no finite value here"));
    this.overlay = svgEl("g", {});
    this.svg.append(this.overlay);
    this.svg.setAttribute("aria-label", this.summary());
    this.drawCursor();
  }

  extent() {
    let low = null, high = null, least = null;
    const take = (value) => {
      if (typeof value !== "number") return;
      if (low === null || value < low) low = value;
      if (high === null || value > high) high = value;
      if (value > 0 && (least === null || value < least)) least = value;
    };
    const takeAll = (values) => {
      if (values) for (let i = this.view.first; i <= this.view.last; ++i) take(values[i]);
    };
    this.spec.series.forEach((series, i) => {
      const column = this.column(series.name);
      takeAll(this.smooth[i]);
      takeAll(column.values);
      takeAll(column.low);
      takeAll(column.high);
    });
    if (this.spec.band) this.bandEnds().forEach(takeAll);
    return {low, high, least, positive: least !== null};
  }

  /** [low, high] of the band. */
  bandEnds() {
    const {low, high, around, by} = this.spec.band;
    if (low) return [this.column(low).values, this.column(high).values];
    const middle = this.column(around).values, spread = this.column(by).values;
    const both = (sign) => middle.map((value, i) =>
        typeof value === "number" && typeof spread[i] === "number" ? value + sign * spread[i] : null);
    return [both(-1), both(1)];
  }

  axes(yTicks, yText) {
    const parts = [], right = this.width - this.right, floor = kHeight - this.bottom;
    for (const tick of yTicks) {
      const y = this.py(tick);
      parts.push(svgEl("line", {class: "grid", x1: this.left, x2: right, y1: y, y2: y}),
          svgEl("text", {x: this.left - 6, y: y + 4, "text-anchor": "end"}, yText(tick)));
    }
    const room = Math.max(2, Math.floor((right - this.left) / 75));
    const unit = this.view.xUnit;
    const ticks = (unit === "seconds" ? secondTicks(this.x0, this.x1, room)
        : linearTicks(this.x0, this.x1, room, this.view.x !== "epoch")).filter((tick) => tick >= this.x0 && tick <= this.x1);
    const text = tickFormat(ticks, unit);
    parts.push(svgEl("line", {class: "axis", x1: this.left, x2: right, y1: floor, y2: floor}));
    for (const tick of ticks) {
      const x = this.px(tick), half = (text(tick).length * kCharacter) / 2;
      parts.push(svgEl("line", {class: "axis", x1: x, x2: x, y1: floor, y2: floor + 4}),
          svgEl("text", {x: Math.min(x, this.width - half - 1), y: kHeight - 7, "text-anchor": "middle"}, text(tick)));
    }
    return parts;
  }

  area(low, high) {
    let above = "", below = "";
    for (let i = this.view.first; i <= this.view.last; ++i) {
      if (!this.visible(low[i]) || !this.visible(high[i])) continue;
      const x = this.px(this.xs[i]).toFixed(1);
      above += (above ? "L" : "M") + x + " " + this.py(high[i]).toFixed(1);
      below = "L" + x + " " + this.py(low[i]).toFixed(1) + below;
    }
    return above ? above + below + "Z" : "";
  }

  bands() {
    const areas = this.spec.series.map((series, i) => {
      const {low, high} = this.column(series.name);
      return low && !series.eval ? svgEl("path", {class: `band s${i % 8}`, d: this.area(low, high)}) : null;
    });
    if (this.spec.band) areas.unshift(svgEl("path", {class: "band s0", d: this.area(...this.bandEnds())}));
    return areas.filter((area) => area !== null);
  }

  /** "M1 2L3 4": absent values are passed over, NaN and infinity break the line. */
  path(values) {
    let d = "", pen = false;
    for (let i = this.view.first; i <= this.view.last; ++i) {
      if (values[i] === null) continue;
      if (!this.visible(values[i])) {
        pen = false;
        continue;
      }
      d += (pen ? "L" : "M") + this.px(this.xs[i]).toFixed(1) + " " + this.py(values[i]).toFixed(1);
      pen = true;
    }
    return d;
  }

  dots(values, className, radius) {
    const group = svgEl("g", {class: className});
    for (let i = this.view.first; i <= this.view.last; ++i)
      if (this.visible(values[i]))
        group.append(svgEl("circle", {cx: this.px(this.xs[i]).toFixed(1), cy: this.py(values[i]).toFixed(1), r: radius}));
    return group;
  }

  lines() {
    const parts = [], smooth = this.smoothing > 0;
    const few = this.view.last - this.view.first < 40;
    this.spec.series.forEach((series, i) => {
      const colour = `s${i % 8}`, {values} = this.column(series.name);
      if (series.eval) {
        const count = values.slice(this.view.first, this.view.last + 1).filter((value) => value !== null).length;
        const many = count > 80;
        parts.push(svgEl("path", {class: `line ${many ? "" : "eval "}${colour}`, d: this.path(values)}));
        if (!many) parts.push(this.dots(values, `dots ${colour}`, count < 20 ? 3.5 : 2.5));
        return;
      }
      if (smooth) parts.push(svgEl("path", {class: `raw ${colour}`, d: this.path(values)}));
      if (few) parts.push(this.dots(values, `${smooth ? "raw-dots" : "dots"} ${colour}`, 2));
      parts.push(svgEl("path", {class: `line ${colour}`, d: this.path(this.smooth[i])}));
    });
    return parts;
  }

  /** A cross at the upper edge where a value is not finite. */
  oddMarks() {
    const points = new Set();
    for (const series of this.spec.series) {
      const {values} = this.column(series.name);
      for (let i = this.view.first; i <= this.view.last && points.size < 300; ++i)
        if (typeof values[i] === "string") points.add(i);
    }
    return [...points].map((i) => svgEl("text", {class: "odd", x: this.px(this.xs[i]), y: 12, "text-anchor": "middle"}, "\u00d7"));
  }

  summary() {
    return this.spec.title + ": " + this.spec.series.map((series) => {
      const values = this.column(series.name).values.slice(this.view.first, this.view.last + 1);
      const numbers = values.filter((value) => typeof value === "number");
      const odd = values.filter((value) => typeof value === "string").length;
      if (numbers.length === 0) return series.label + ", no finite value";
      const text = (value) => valueText(value, this.spec.unit);
      return `${series.label} from ${text(numbers[0])} to ${text(numbers[numbers.length - 1])} in ${numbers.length} points` +
          (odd > 0 ? `, ${odd} not finite` : "");
    }).join("; ");
  }

  drawCursor() {
    const view = this.view, point = view.cursor;
    const marks = [];
    this.spec.series.forEach((series, i) => {
      const {value, point: found} = this.at(series.name, point ?? view.last);
      const away = found !== (point ?? view.last) && point !== null;
      this.values[i].number.textContent = valueText(value, this.spec.unit) +
          (away && value !== null ? " at " + numberText(view.metrics.steps[found]) : "");
      const smooth = this.smooth[i][found];
      this.values[i].smooth.textContent = this.smoothing > 0 && !series.eval && typeof smooth === "number"
          ? "~ " + valueText(smooth, this.spec.unit) : "";
      if (point !== null && found >= view.first && this.visible(value))
        marks.push(svgEl("circle", {class: `dots s${i % 8}`, cx: this.px(this.xs[found]), cy: this.py(value), r: 4}));
    });
    if (point === null) {
      this.overlay.replaceChildren();
      return;
    }
    const x = this.px(this.xs[point]), text = view.xLabel(point);
    const half = (text.length * kCharacter) / 2;
    const place = Math.min(Math.max(x, this.left + half), this.width - half - 2);
    this.overlay.replaceChildren(
        svgEl("line", {class: "cursor", x1: x, x2: x, y1: this.top, y2: kHeight - this.bottom}), ...marks,
        svgEl("text", {class: "cursor-text", x: place, y: 11, "text-anchor": "middle"}, text));
  }

  /** Shades what a drag has gone over; null: nothing. */
  select(from, to = null) {
    this.overlay.querySelector(".selection")?.remove();
    if (from === null || to === null || from === to) return;
    const [a, b] = [this.px(this.xs[from]), this.px(this.xs[to])].sort((left, right) => left - right);
    this.overlay.prepend(svgEl("rect", {class: "selection", x: a, width: b - a, y: this.top, height: kHeight - this.top - this.bottom}));
  }
}
