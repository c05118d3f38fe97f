// The page: two pictures, or one, into a worker; the score, the map and both pictures out.

import { coloured, colourOf } from "./colours.js";
import { controls, element, keyList, KEYS, Stage } from "./stage.js";

const LONG = 30; // seconds, above which a map is drawn on request only
const LEGEND = 84, LARGEST_SIDE = 4096; // of the map that is downloaded, pixels
const $ = (id) => document.getElementById(id);

const { metrics, runtime, example } = await (await fetch("demo.json")).json();
const byKind = (compares) => metrics.find((metric) => metric.compares === compares);
const files = { reference: null, result: null };
const addresses = { reference: "", result: "" };
const worker = new Worker("demo_worker.js", { type: "module" });
let id = 0, metric = null, scored = null, mapped = null;

// What is asked for.

function metricOf() {
  if (!files.result) return null;
  return (files.reference && byKind(true)) || byKind(false) || null;
}

function missing() {
  if (files.reference && !files.result) return "Now the result: the picture to judge.";
  if (files.result && !files.reference) return "Now the reference: this page's metric compares a picture with its original.";
  return "";
}

function put(slot, file) {
  if (addresses[slot]) URL.revokeObjectURL(addresses[slot]);
  files[slot] = file;
  addresses[slot] = file ? URL.createObjectURL(file) : "";
  const box = $(slot), image = box.querySelector("img"), hint = box.querySelector(".hint");
  hint.textContent = file ? file.name : { reference: "the original, if there is one", result: "the picture to judge" }[slot];
  image.hidden = !file;
  if (file) image.src = addresses[slot];
  box.querySelector(".remove").hidden = !file;
  box.querySelector("input").value = "";
}

function start() {
  [scored, mapped, metric] = [null, null, metricOf()];
  id += 1;
  show();
  if (metric) ask("score", { files: metric.compares ? [files.reference, files.result] : [files.result] });
  else {
    worker.postMessage({ id, task: "stop" });
    say(missing());
  }
}

function ask(task, more = {}) {
  working("getting ready");
  worker.postMessage({ id, task, metric, ...more });
}

function say(text, failed = false) {
  $("error").hidden = !failed;
  $("error").textContent = failed ? text : "";
  $("working").hidden = failed || !text;
  $("progress").hidden = $("stop").hidden = true;
  $("doing").textContent = failed ? "" : text;
}

function working(text, done = null, of = null) {
  say(text);
  $("progress").hidden = $("stop").hidden = false;
  if (of) [$("progress").max, $("progress").value] = [of, done];
  else $("progress").removeAttribute("value");
}

worker.onmessage = ({ data }) => {
  if (data.id !== id) return;
  if (data.state === "loading") working("loading the metric");
  else if (data.state === "progress")
    working(`${data.what}: ${data.done} of ${data.of} windows`, data.done, data.of);
  else if (data.state === "failed") say(data.text, true);
  else if (data.state === "scored") {
    scored = data;
    say("");
    show({ fit: true });
    if (estimate() <= LONG) ask("map");
  } else if (data.state === "mapped") {
    const values = data.map.values;
    mapped = { ...data, low: values.reduce((a, b) => Math.min(a, b)), high: values.reduce((a, b) => Math.max(a, b)) };
    say("");
    show();
  }
};
worker.onerror = (event) => say(`the page could not start (${event.message ?? "its worker failed to load"})`, true);

function estimate() {
  return (scored.seconds / scored.windows) * scored.mapWindows;
}

// What is shown.

const stage = new Stage($("stage"), () => update());
const { modes, size, update } = controls(stage);
const keys = keyList([["x", "exchange reference and result"], ["m", "map on, off"], ["w", "worst windows on, off"],
  ...KEYS, ["?", "this list"]]);
$("tools").prepend(...modes);
$("sizes").append(...size, keys.button);
$("tools").after(keys.list);

function span() {
  const [lowest, highest] = metric.range;
  return $("full").checked ? [lowest, highest] : [mapped.low, Math.max(mapped.high, mapped.low + (highest - lowest) / 100)];
}

function show({ fit = false } = {}) {
  $("scored").hidden = $("viewing").hidden = !scored;
  document.body.dataset.score = scored ? String(scored.score) : "";
  $("swap").disabled = !files.reference && !files.result;
  if (!scored) return;
  const [lowest, highest] = metric.range, share = (scored.score - lowest) / (highest - lowest);
  $("score").textContent = scored.score.toFixed(2);
  $("of").textContent = `on a scale from ${lowest} (bad) to ${highest} (excellent)`;
  [$("lowest").textContent, $("highest").textContent] = metric.range;
  $("range").ariaLabel = `${scored.score.toFixed(2)} between ${lowest} and ${highest}`;
  $("marker").style.left = `${100 * Math.min(1, Math.max(0, share))}%`;
  $("how").textContent = `${metric.compares ? "compared with the reference" : "without a reference"}, ` +
    `${scored.width} × ${scored.height} pixels, ${scored.windows} windows, ${scored.seconds.toFixed(1)} s`;
  $("inexact").hidden = scored.exact;
  showPictures(fit);
}

function showPictures(fit) {
  const withMap = mapped && $("map").checked;
  const [low, high] = mapped ? span() : [0, 1];
  const side = (slot) => ({
    label: slot === "result" ? `result ${scored.score.toFixed(2)}` : "reference",
    image: addresses[slot],
    map: slot === "result" && withMap ? overlay(low, high) : null,
    windows: slot === "result" && mapped && $("windows").checked ? mapped.worst : [],
  });
  stage.show(scored.width, scored.height, [side("result"), ...(metric.compares ? [side("reference")] : [])], { fit });
  $("scale").hidden = !withMap;
  [$("low").textContent, $("high").textContent] = [low, high].map((x) => x.toFixed(2));
  $("download").disabled = !mapped;
  $("draw").hidden = Boolean(mapped) || estimate() <= LONG;
  $("draw").textContent = `Draw the map (${scored.mapWindows} windows, about ${Math.ceil(estimate())} s)`;
}

function overlay(low, high) {
  const canvas = element("canvas", { width: mapped.map.width, height: mapped.map.height });
  canvas.getContext("2d").drawImage(coloured(mapped.map, low, high), 0, 0);
  return canvas;
}

// The colours, half transparent over the picture in grey, and their scale at the right.
async function download() {
  const picture = new Image();
  picture.src = addresses.result;
  await picture.decode();
  const shrunk = Math.min(1, LARGEST_SIDE / Math.max(scored.width, scored.height));
  const width = Math.round(scored.width * shrunk), height = Math.round(scored.height * shrunk);
  const canvas = element("canvas", { width: width + LEGEND, height }), context = canvas.getContext("2d");
  const [low, high] = span();
  context.fillStyle = "white";
  context.fillRect(0, 0, width + LEGEND, height);
  context.fillStyle = "rgb(128 128 128)";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  context.globalCompositeOperation = "color"; // grey, with the picture's luminosity
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 0.5;
  context.drawImage(coloured(mapped.map, low, high), 0, 0, width, height);
  context.globalAlpha = 1;
  legend(context, width, height, low, high);
  const link = element("a", { download: `${files.result.name.replace(/\.\w+$/, "")}-map.png` });
  link.href = URL.createObjectURL(await new Promise((made) => { canvas.toBlob(made, "image/png"); }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function legend(context, left, height, low, high) {
  const top = 22, bottom = height - 8, ticks = Math.min(6, Math.max(2, Math.floor((bottom - top) / 24)));
  for (let row = top; row < bottom; row += 1) {
    context.fillStyle = `rgb(${colourOf(high - ((high - low) * (row - top)) / (bottom - top), low, high).join(" ")})`;
    context.fillRect(left + 4, row, 16, 1);
  }
  context.fillStyle = "black";
  context.font = "12px sans-serif";
  context.textBaseline = "middle";
  context.fillText("MOS", left + 4, 10);
  for (let k = 0; k < ticks; k += 1) {
    const value = low + ((high - low) * k) / (ticks - 1), row = bottom - ((bottom - top) * k) / (ticks - 1);
    context.fillRect(left + 20, row - 0.5, 4, 1);
    context.fillText(value.toFixed(2), left + 28, row);
  }
}

// What the user does.

function swap() {
  const { reference, result } = files;
  put("reference", result);
  put("result", reference);
  start();
}

// Several files at once: by their names, else in their order.
function take(given, slot = null) {
  const pictures = [...given].slice(0, 2);
  if (!pictures.length) return;
  if (pictures.length === 2 && byKind(true)) {
    const isReference = (file) => /ref|orig|clean|truth|source/i.test(file.name);
    const [a, b] = pictures;
    const [reference, result] = isReference(b) && !isReference(a) ? [b, a] : [a, b];
    put("reference", reference);
    put("result", result);
  } else put(slot ?? (files.result && !files.reference && byKind(true) ? "reference" : "result"), pictures[0]);
  start();
}

for (const slot of ["reference", "result"]) {
  const box = $(slot);
  box.querySelector("input").onchange = ({ target }) => take(target.files, slot);
  box.querySelector(".remove").onclick = () => {
    put(slot, null);
    start();
    box.querySelector("input").focus();
  };
  box.ondragover = () => box.classList.add("over");
  box.ondragleave = () => box.classList.remove("over");
}
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  for (const box of document.querySelectorAll(".over")) box.classList.remove("over");
  take(event.dataTransfer.files, event.target.closest?.(".slot")?.id);
};
document.onpaste = (event) => take(event.clipboardData.files);
$("swap").onclick = swap;
$("stop").onclick = () => {
  id += 1;
  worker.postMessage({ id, task: "stop" });
  say("stopped");
  if (scored) $("draw").hidden = false;
};
$("draw").onclick = () => ask("map");
$("download").onclick = download;
for (const box of ["map", "windows", "full"]) $(box).onchange = () => scored && showPictures(false);
$("example").onclick = async () => {
  const fetched = (name) => fetch(name).then((answer) => answer.blob()).then((blob) => new File([blob], name));
  if (byKind(true)) put("reference", await fetched(example.reference));
  put("result", await fetched(example.result));
  start();
};
document.onkeydown = (event) => {
  const { target } = event, onButton = event.key === " " && target.matches("button, input, summary");
  if (target.matches("input:not([type=checkbox]):not([type=file])") || onButton) return;
  if (event.ctrlKey || event.metaKey || event.altKey || !scored) return;
  const actions = { x: () => metric.compares && swap(), m: () => $("map").click(), w: () => $("windows").click(),
    "?": () => keys.button.click() };
  if (actions[event.key]) actions[event.key]();
  else if (!stage.key(event)) return;
  event.preventDefault();
};

// What this page has.

$("reference").hidden = $("swap").hidden = !byKind(true);
document.querySelector(".slots").classList.toggle("single", !byKind(true));
$("about").textContent = `Drop ${[byKind(false) && "a picture for a score without a reference",
  byKind(true) && "a picture and its original to compare them"].filter(Boolean).join(", or ")}.`;
$("metrics").textContent = metrics.map((one) => one.title).join("; ") + ` (${metrics[0].version}, ${runtime})`;
$("credit").lastElementChild.textContent = example.credit;
worker.postMessage({ id, task: "load", metrics });
show();
// Only now, when everything listens.
$("unserved").remove();
document.querySelector("main").hidden = false;
