"use strict";
// Elements, and numbers, sizes and texts as people read them.

/** el("p", {class: "dim"}, "text", child): an element. A child that is text stays text, whatever it holds. */
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svgEl(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const kNothing = "\u2013";

/** "0.4213", "1.21e-5", "134,515,008". A word ("nan") is itself. */
function numberText(value) {
  if (value === null || value === undefined) return kNothing;
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(3);
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  if (size >= 10000) return Math.round(value).toLocaleString("en-US");
  if (size < 1e-3) return value.toExponential(2);
  // Ratios stay near 1: what differs is what counts.
  return Number(value.toPrecision(Math.abs(size - 1) < 0.01 ? 7 : 4)).toLocaleString("en-US", {maximumFractionDigits: 7});
}

function signedText(value) {
  const text = numberText(typeof value === "number" ? Number(value.toPrecision(3)) : value);
  return typeof value === "number" && value > 0 ? "+" + text : text.replace("-", "\u2212");
}

const kByteUnits = ["bytes", "KiB", "MiB", "GiB", "TiB"];

function bytesText(bytes) {
  if (typeof bytes !== "number") return numberText(bytes);
  let unit = 0, size = bytes;
  for (; size >= 1024 && unit + 1 < kByteUnits.length; ++unit) size /= 1024;
  return (unit === 0 ? String(size) : size.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0)) + " " + kByteUnits[unit];
}

/** "35 ms", "0.42 s", "48 s", "12 min 04 s", "3 h 20 min", "2 d 4 h". */
function secondsText(seconds) {
  if (typeof seconds !== "number") return numberText(seconds);
  if (seconds > 0 && seconds < 1e-4) return Number((seconds * 1e6).toPrecision(3)) + " \u00b5s";
  if (seconds < 0.1) return numberText(Number((seconds * 1000).toPrecision(3))) + " ms";
  if (seconds < 10) return Number(seconds.toPrecision(3)) + " s";
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return whole + " s";
  if (minutes < 60) return minutes + " min " + two(whole % 60) + " s";
  if (hours < 48) return hours + " h " + two(minutes % 60) + " min";
  return Math.floor(hours / 24) + " d " + (hours % 24) + " h";
}

function valueText(value, unit) {
  if (unit === "bytes") return bytesText(value);
  if (unit === "seconds") return secondsText(value);
  return numberText(value);
}

/** "1.2 M" for a count that need not be exact. */
function countText(count) {
  if (typeof count !== "number") return numberText(count);
  for (const [size, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]])
    if (count >= size) return Number((count / (name === "k" ? 1e3 : size)).toPrecision(3)) + " " + name;
  return numberText(count);
}

/* Control characters but line feed and tab, what turns the direction of writing, and what has no width: they would act
   instead of showing. */
const kHidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/;

function hiddenCharacter(character) {
  const code = character.charCodeAt(0).toString(16);
  return code.length <= 2 ? "\\x" + code.padStart(2, "0") : "U+" + code.toUpperCase().padStart(4, "0");
}

/** Text as nodes: hidden characters made visible, what matches `query` (in lower case) marked. */
function textNodes(text, query = "") {
  const nodes = [];
  const plain = (part) => {
    let begin = 0;
    for (let i = 0; i < part.length; ++i) {
      if (!kHidden.test(part[i])) continue;
      if (i > begin) nodes.push(part.slice(begin, i));
      nodes.push(el("span", {class: "hidden-character"}, hiddenCharacter(part[i])));
      begin = i + 1;
    }
    if (begin < part.length) nodes.push(part.slice(begin));
  };
  const lower = query ? text.toLowerCase() : "";
  // Lower case of a few letters is longer: places in the two would differ.
  if (!query || lower.length !== text.length) {
    plain(text);
    return nodes;
  }
  let begin = 0;
  for (let at = lower.indexOf(query); at >= 0; at = lower.indexOf(query, begin)) {
    plain(text.slice(begin, at));
    nodes.push(el("mark", {}, text.slice(at, at + query.length)));
    begin = at + query.length;
  }
  plain(text.slice(begin));
  return nodes;
}

/** Some characters of a text on one line, around the first place of `query`. */
function excerpt(text, query = "", length = 160) {
  let begin = 0;
  if (query) begin = Math.max(0, text.toLowerCase().indexOf(query) - 30);
  // A text of megabytes is not searched for white space as a whole.
  const part = text.slice(begin, begin + 4 * length).replace(/\s+/g, " ").trim();
  const cut = part.length > length ? part.slice(0, length) + "\u2026" : part;
  return (begin > 0 ? "\u2026" : "") + cut;
}
