// The table of prompts and completions: filter, search, sort, unfold.

const kPageSize = 20;
const kSorts = {
  latest: {label: "latest first", key: (sample) => sample.step, down: true},
  earliest: {label: "earliest first", key: (sample) => sample.step, down: false},
  best: {label: "highest reward", key: (sample) => sample.reward, down: true},
  worst: {label: "lowest reward", key: (sample) => sample.reward, down: false},
  up: {label: "highest advantage", key: (sample) => sample.advantage, down: true},
  low: {label: "lowest advantage", key: (sample) => sample.advantage, down: false},
  longest: {label: "longest", key: (sample) => sample.num_tokens, down: true},
  shortest: {label: "shortest", key: (sample) => sample.num_tokens, down: false},
};

function promptText(sample) {
  if (sample.prompt === undefined) return "";
  if (typeof sample.prompt === "string") return sample.prompt;
  return sample.prompt.map((message) => message.role + ": " + message.content).join("\n\n");
}

/** The part of a prompt that tells it from others: the last message. */
function promptExcerptText(sample) {
  return Array.isArray(sample.prompt) ? sample.prompt[sample.prompt.length - 1].content : promptText(sample);
}

/** Two samples answer the same prompt of one step. */
function sameGroup(a, b) {
  return a.step === b.step && (a.group === undefined ? promptText(a) === promptText(b) : a.group === b.group);
}

class SampleTable {
  constructor(samples) {
    this.samples = samples.map((sample, number) => ({...sample, number}));
    this.chosen = {step: "", finish: "", group: null, query: "", sort: "latest"};
    this.page = 0;
    this.open = new Set();
    this.body = el("tbody", {});
    this.counter = el("span", {"aria-live": "polite"});
    this.pager = el("span", {class: "pager"});
    this.heads = {};
    this.element = el("div", {}, this.filters(), this.group = el("p", {}), this.table(), el("div", {class: "pager"}, this.counter, this.pager));
    this.update();
  }

  has(name) { return this.samples.some((sample) => sample[name] !== undefined); }

  filters() {
    const distinct = (name) => [...new Set(this.samples.map((sample) => sample[name]).filter((value) => value !== undefined))];
    const choose = (name) => (event) => {
      this.chosen[name] = event.target.value;
      this.page = 0;
      this.update();
    };
    const select = (label, name, options) => el("label", {}, label,
        el("select", {onchange: choose(name)}, options.map(([value, text]) => el("option", {value}, text))));
    const steps = distinct("step").sort((a, b) => b - a), ends = distinct("finish_reason").sort();
    let waiting;
    const search = el("input", {
      type: "search", placeholder: "search prompts and completions", "aria-label": "search prompts and completions",
      oninput: () => {
        clearTimeout(waiting);
        waiting = setTimeout(() => {
          this.chosen.query = search.value.toLowerCase();
          this.page = 0;
          this.update();
        }, 150);
      },
    });
    const sorts = Object.entries(kSorts).filter(([, {key}]) => this.samples.some((sample) => key(sample) !== undefined));
    this.sortSelect = el("select", {onchange: choose("sort")}, sorts.map(([value, {label}]) => el("option", {value}, label)));
    return el("div", {class: "filters"}, search,
        steps.length > 1 ? select("step", "step", [["", "all"], ...steps.map((step) => [step, numberText(step)])]) : null,
        ends.length > 1 ? select("end", "finish", [["", "any"], ...ends.map((end) => [end, end])]) : null,
        sorts.length > 0 ? el("label", {}, "order", this.sortSelect) : null);
  }

  table() {
    this.columns = [
      {name: "step", label: "step", sorts: ["latest", "earliest"], width: "step"},
      {name: "reward", label: "reward", sorts: ["best", "worst"], width: "value"},
      {name: "advantage", label: "advantage", sorts: ["up", "low"], width: "value"},
      {name: "num_tokens", label: "tokens", sorts: ["longest", "shortest"], width: "step"},
      {name: "finish_reason", label: "end", width: "end"},
      {name: "prompt", label: "prompt", width: "prompt"},
      {name: "completion", label: "completion", width: "completion"},
    ].filter(({name}) => name === "completion" || this.has(name));
    const head = ({name, label, sorts}) => {
      const cell = el("th", {scope: "col", class: sorts ? "number" : null}, sorts ? el("button", {
        type: "button",
        onclick: () => {
          this.chosen.sort = this.chosen.sort === sorts[0] ? sorts[1] : sorts[0];
          this.page = 0;
          this.update();
        },
      }, label) : label);
      if (sorts) this.heads[name] = {cell, sorts, label};
      return cell;
    };
    return el("table", {class: "samples"},
        el("colgroup", {}, el("col", {class: "open"}), this.columns.map(({width}) => el("col", {class: width}))),
        el("thead", {}, el("tr", {}, el("td", {}, el("span", {class: "unseen"}, "unfold")), this.columns.map(head))), this.body);
  }

  text(sample) {  // in lower case, to be searched
    sample.searched ??= [promptText(sample), sample.completion ?? "", ...Object.values(sample.columns ?? {})].join("\n").toLowerCase();
    return sample.searched;
  }

  matching() {
    const {step, finish, group, query, sort} = this.chosen;
    const found = this.samples.filter((sample) =>
        (step === "" || String(sample.step) === step) && (finish === "" || sample.finish_reason === finish) &&
        (group === null || sameGroup(sample, group)) &&
        (query === "" || this.text(sample).includes(query)));
    const {key, down} = kSorts[sort];
    const value = (sample) => (typeof key(sample) === "number" ? key(sample) : null);
    // What has no number comes last; equal ones stay in the file's order, the latest first.
    return found.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return x === y ? a.number - b.number : x === null ? 1 : -1;
      return x !== y ? (down ? y - x : x - y) : a.number - b.number;
    });
  }

  update() {
    const found = this.matching();
    const pages = Math.max(1, Math.ceil(found.length / kPageSize));
    this.page = Math.min(this.page, pages - 1);
    const begin = this.page * kPageSize, shown = found.slice(begin, begin + kPageSize);
    this.body.replaceChildren(...shown.flatMap((sample) => this.rows(sample)));
    if (found.length === 0)
      this.body.append(el("tr", {}, el("td", {colspan: this.columns.length + 1, class: "empty"}, "No sample is like this.")));
    this.counter.textContent = found.length === 0 ? "" :
        `${numberText(begin + 1)} to ${numberText(begin + shown.length)} of ${numberText(found.length)}`;
    const turn = (label, page) => el("button", {
      type: "button", disabled: page < 0 || page >= pages,
      onclick: () => {
        this.page = page;
        this.update();
        this.element.scrollIntoView();
      },
    }, label);
    this.pager.replaceChildren(...(pages > 1 ? [turn("previous", this.page - 1), turn("next", this.page + 1)] : []));
    this.group.replaceChildren(...(this.chosen.group === null ? [] : [
      "Answers to one prompt of step " + numberText(this.chosen.group.step) + ". ",
      el("button", {type: "button", onclick: () => { this.chosen.group = null; this.page = 0; this.update(); }}, "show all again")]));
    this.sortSelect.value = this.chosen.sort;
    for (const {cell, sorts, label} of Object.values(this.heads)) {
      const way = this.chosen.sort === sorts[0] ? "descending" : this.chosen.sort === sorts[1] ? "ascending" : null;
      if (way) cell.setAttribute("aria-sort", way);
      else cell.removeAttribute("aria-sort");
      cell.firstChild.textContent = label + (way === "descending" ? " \u2193" : way === "ascending" ? " \u2191" : "");
    }
  }

  rows(sample) {
    const open = this.open.has(sample.number), query = this.chosen.query;
    const toggle = () => {
      if (window.getSelection()?.toString()) return;  // the reader is copying
      if (open) this.open.delete(sample.number);
      else this.open.add(sample.number);
      this.update();
      this.body.querySelector(`[data-number="${sample.number}"] button`)?.focus({preventScroll: true});
    };
    const cell = ({name, label}) => {
      if (name === "prompt" || name === "completion") {
        const text = name === "prompt" ? promptExcerptText(sample) : sample.completion ?? "";
        if (text === "") return el("td", {class: "excerpt dim", "data-name": label}, "(empty)");
        const matches = query !== "" && text.toLowerCase().includes(query);
        const begin = el("span", {}, textNodes(excerpt(text, matches ? query : ""), query));
        // Answers to one prompt begin alike, and their end tells them apart.
        const end = name === "completion" && !matches && text.length > 60
            ? el("span", {class: "end"}, textNodes(excerpt(text.slice(-28), "", 28))) : null;
        return el("td", {class: "excerpt", "data-name": label}, el("div", {}, begin, end));
      }
      if (name === "finish_reason") return el("td", {"data-name": label}, textNodes(sample.finish_reason ?? kNothing));
      const value = sample[name], signed = name === "advantage";
      return el("td", {class: "number" + (signed && value > 0 ? " plus" : signed && value < 0 ? " minus" : ""), "data-name": label},
          signed ? signedText(value) : numberText(value));
    };
    const row = el("tr", {class: "sample", "data-open": open, "data-number": sample.number, onclick: toggle},
        el("td", {class: "open"}, el("button", {
          type: "button", "aria-expanded": String(open), "aria-label": `sample ${sample.number + 1}`,
        }, open ? "\u25be" : "\u25b8")), this.columns.map(cell));
    return open ? [row, this.detail(sample)] : [row];
  }

  detail(sample) {
    const query = this.chosen.query;
    const facts = [];
    const fact = (name, text) => facts.push(el("div", {}, el("dt", {}, textNodes(name)), el("dd", {}, text)));
    for (const [name, value] of Object.entries(sample.rewards ?? {})) fact(name, value === null ? "not scored" : numberText(value));
    const group = this.samples.filter((other) => sameGroup(other, sample));
    const messages = Array.isArray(sample.prompt) ? sample.prompt : sample.prompt === undefined ? [] : [{role: "prompt", content: sample.prompt}];
    return el("tr", {class: "detail"}, el("td", {colspan: this.columns.length + 1},
        facts.length > 0 ? [el("h4", {}, "rewards"), el("dl", {class: "facts"}, facts)] : null,
        messages.flatMap(({role, content}) => [el("h4", {}, textNodes(role)), el("pre", {}, textNodes(content, query))]),
        el("h4", {}, "completion"), el("pre", {class: "completion"}, textNodes(sample.completion ?? "", query)),
        Object.entries(sample.columns ?? {}).flatMap(([name, text]) => [el("h4", {}, textNodes(name)), el("pre", {}, textNodes(text, query))]),
        group.length > 1 && this.chosen.group === null ? el("p", {}, el("button", {
          type: "button",
          onclick: () => {
            this.chosen.group = sample;
            this.page = 0;
            this.update();
            this.element.scrollIntoView();
          },
        }, `show the ${group.length} answers to this prompt`)) : null));
  }
}

function drawSamples(data) {
  if (data.num_samples === null) return;
  document.getElementById("samples").hidden = false;
  const body = document.getElementById("samples-body");
  if (data.samples.length === 0) {
    body.append(el("p", {class: "empty"}, "No sample is written yet."));
    return;
  }
  const left = data.num_samples - data.samples.length;
  body.append(el("p", {class: "dim"}, left === 0 ? `${numberText(data.num_samples)} samples.` :
      `The latest ${numberText(data.samples.length)} of ${numberText(data.num_samples)} samples; completions.jsonl has all.`));
  body.append(new SampleTable(data.samples).element);
}
