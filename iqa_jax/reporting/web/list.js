// The data of the page, the list of its pictures and the histogram of their scores.

const { pairs, sources, methods, measures, unit } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const source = (picture) => sources[picture] ?? "";
const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(4));
for (const pair of pairs) measures.forEach((name, k) => { pair[`measured ${k}`] = pair.measured[k]; });
const scored = pairs.filter((pair) => pair.score !== null);
const nameOf = (pair) => (pair.method ? `${pair.method}/${pair.name}` : pair.name);
const PORTION = 500; // rows that are drawn at a time

// What is compared with each other: all pictures of a reference, those that were not scored last.
const byContent = new Map();
for (const pair of [...scored, ...pairs.filter((pair) => pair.score === null)]) {
  if (!byContent.has(pair.content)) byContent.set(pair.content, []);
  byContent.get(pair.content).push(pair);
}

function cell(text, className = "number") {
  return element("td", { className, textContent: text });
}

function thumbnail(pair) {
  return element("img", { src: source(pair.thumbnail), alt: "", loading: "lazy" });
}

// Fills the body of a table a portion at a time; `make` gives the rows of an item.
function fill(body, more, items, make) {
  let drawn = 0;
  const draw = () => {
    body.append(...items.slice(drawn, drawn + PORTION).flatMap(make));
    drawn = Math.min(items.length, drawn + PORTION);
    more.hidden = drawn >= items.length;
    more.textContent = `Show ${Math.min(PORTION, items.length - drawn)} more of ${items.length - drawn}`;
  };
  body.replaceChildren();
  more.onclick = draw;
  draw();
}

// The list: sorted by a column, filtered by name and score.
const columns = [["", null], ["image", "name"], ["reference", "reference"], ["method", "method"], ["score", "score"],
  ...measures.map((name, k) => [name, `measured ${k}`])]
  .filter(([title]) => title !== "method" || methods.length > 1)
  .filter(([title]) => title !== "reference" || pairs.some((pair) => pair.reference));
const isNumber = (key) => key === "score" || key.startsWith("measured ");
// On a narrow screen these stand below the name.
const isBelow = (key) => key === "reference" || key === "method" || key.startsWith("measured ");
let order = { key: "score", up: true };
let shown = [];

function list() {
  const text = $("name").value.toLowerCase();
  const [from, to] = ["from", "to"].map((id) => ($(id).value === "" ? null : Number($(id).value)));
  shown = pairs.filter((pair) =>
    `${pair.name} ${pair.reference ?? ""} ${pair.method}`.toLowerCase().includes(text) &&
    (from === null || (pair.score !== null && pair.score >= from)) &&
    (to === null || (pair.score !== null && pair.score <= to)));
  const sign = order.up ? 1 : -1;
  const texts = new Intl.Collator(undefined, { numeric: true });
  shown.sort((a, b) => {
    const [x, y] = [a[order.key], b[order.key]];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "number" ? x - y : texts.compare(x, y));
  });
  const here = shown; // the rows of a later portion belong to the order that they were drawn in
  fill($("pairs").tBodies[0], $("more"), here, (pair) => [row(pair, here)]);
  $("count").textContent = `${shown.length} of ${pairs.length} shown`;
  heads();
}

function row(pair, sequence) {
  const made = element("tr", { onclick: () => open(pair, sequence) });
  for (const [title, key] of columns) {
    if (!key) made.append(element("td", {}, thumbnail(pair)));
    else if (key === "name") made.append(name(pair));
    else if (key === "score") made.append(cell(pair.error ?? number(pair.score), `number${pair.error ? " failed" : ""}`));
    else made.append(cell(isNumber(key) ? number(pair[key]) : pair[key] || "–",
      `${isNumber(key) ? "number" : "name"} wide`));
  }
  return made;
}

// The name, which opens the viewer, and for narrow screens what stands in columns on wide ones.
function name(pair) {
  const below = columns.filter(([, key]) => key && isBelow(key) && pair[key] !== null && pair[key] !== "")
    .map(([title, key]) => `${title} ${isNumber(key) ? number(pair[key]) : pair[key]}`);
  return element("td", { className: "name" }, element("button", { className: "plain", textContent: pair.name }),
    element("div", { className: "narrow", textContent: below.join(", "), ariaHidden: "true" }));
}

function heads() {
  const sort = (key, up) => {
    order = { key, up };
    list();
  };
  const cells = columns.map(([title, key]) => {
    const wide = key && isBelow(key) ? " wide" : "";
    const made = element("th", { scope: "col", className: (key && isNumber(key) ? "number" : "") + wide });
    if (!key) return made;
    const sorted = order.key === key;
    made.ariaSort = sorted ? (order.up ? "ascending" : "descending") : "none";
    made.append(element("button", { className: "plain", textContent: title + (sorted ? (order.up ? " ▲" : " ▼") : ""),
      onclick: () => sort(key, sorted ? !order.up : true) }));
    return made;
  });
  const again = document.activeElement?.closest?.("#pairs th")?.cellIndex;
  $("pairs").tHead.replaceChildren(element("tr", {}, ...cells));
  if (again !== undefined) cells[again].firstChild?.focus();
  // The columns that a narrow screen does not show can be sorted by all the same.
  $("sort").replaceChildren(...columns.filter(([, key]) => key).flatMap(([title, key]) => [true, false].map((up) =>
    element("option", { value: `${up} ${key}`, textContent: `${title} ${up ? "▲" : "▼"}`,
      selected: order.key === key && order.up === up }))));
  $("sort").onchange = () => {
    const [up, ...key] = $("sort").value.split(" ");
    sort(key.join(" "), up === "true");
  };
}

// The histogram; a click takes a bar's range as the filter.
function round(span, count) {
  const power = 10 ** Math.floor(Math.log10(span / count));
  return power * ([1, 2, 5].find((k) => k * power >= span / count * (1 - 1e-9)) ?? 10);
}

function drawing(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function histogram() {
  const svg = $("histogram"), values = scored.map((pair) => pair.score);
  const width = svg.parentElement.clientWidth, height = 170, left = 44, top = 22, bottom = height - 38;
  svg.toggleAttribute("hidden", values.length < 2 || !width);
  if (svg.hasAttribute("hidden")) return;
  const [lowest, highest] = values.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
  const step = round(highest - lowest || Math.abs(highest) / 10 || 1, 24);
  const first = Math.floor(lowest / step), bars = Math.floor(highest / step) - first + 1;
  const counts = Array(bars).fill(0);
  for (const value of values) counts[Math.min(bars - 1, Math.floor(value / step) - first)] += 1;
  const most = counts.reduce((a, b) => Math.max(a, b)), across = (width - left - 8) / bars;
  const x = (value) => left + (value / step - first) * across, y = (count) => bottom - (count / most) * (bottom - top);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.setAttribute("aria-label", `Histogram of ${values.length} scores from ${number(lowest)} to ${number(highest)}`);
  svg.replaceChildren(drawing("text", { x: 0, y: 11 }, "images"),
    drawing("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, `score, ${unit}`));
  const high = Math.max(1, round(most, 3));
  for (let count = 0; count <= most; count += high) {
    svg.append(drawing("line", { x1: left, x2: width - 8, y1: y(count), y2: y(count) }),
      drawing("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, String(count)));
  }
  counts.forEach((count, k) => {
    const [from, to] = [(first + k) * step, (first + k + 1) * step];
    const bar = drawing("rect", { x: x(from) + 1, width: Math.max(across - 2, 1), y: y(count), height: bottom - y(count) });
    bar.append(drawing("title", {}, `${count} from ${number(from)} to ${number(to)}`));
    bar.onclick = () => {
      [$("from").value, $("to").value] = [from, to].map((end) => end.toFixed(4));
      list();
    };
    svg.append(bar);
  });
  const apart = round(bars * step, Math.max(2, Math.min(bars, (width - left) / 70)));
  const digits = Math.max(0, -Math.floor(Math.log10(apart) + 1e-9));
  for (let k = Math.ceil(first * step / apart - 1e-9); k * apart <= (first + bars) * step * (1 + 1e-9); k += 1) {
    svg.append(drawing("line", { x1: x(k * apart), x2: x(k * apart), y1: bottom, y2: bottom + 5 }),
      drawing("text", { x: x(k * apart), y: bottom + 17, "text-anchor": "middle" }, (k * apart).toFixed(digits)));
  }
}
