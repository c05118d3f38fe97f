// The viewer: a picture (A) beside its reference, or another version of the same content (B).

const viewer = $("viewer"), REFERENCE = "reference";
const stage = new Stage($("stage"), () => update());
const { modes, size, update } = controls(stage);
const keys = keyList([["← →", "previous, next"], ["a b", "another picture as A, as B"], ["x", "exchange A and B"],
  ["m", "map on, off"], ["w", "worst windows on, off"], ...KEYS, ["?", "this list"], ["Esc", "close"]]);
let sequence = [], at = 0;
let a = null, b = null; // a pair, REFERENCE, or null for nothing
let wanted = REFERENCE; // what B is of the next pictures: the reference, or a method by its name

$("modes").prepend(...modes);
$("sizes").append(...size, keys.button);
$("modes").after(keys.list);

function open(pair, those) {
  sequence = those;
  at = those.indexOf(pair);
  if (!viewer.open) viewer.showModal();
  stage.root.focus();
  choose(pair);
  draw(true);
}

// The versions that can be compared with the one at hand; first the reference.
function choices() {
  const pair = sequence[at];
  const others = byContent.get(pair.content).filter((other) => other.target || other === pair);
  return [...(pair.referenceImage ? [REFERENCE] : []), ...others];
}

function choose(pair) {
  const others = choices().filter((other) => other !== pair);
  a = pair;
  b = others.find((other) => wanted !== REFERENCE && other !== REFERENCE && other.method === wanted) ?? others[0] ?? null;
}

function labelOf(side) {
  if (side === REFERENCE) return `reference ${sequence[at].reference}`;
  return `result ${methods.length > 1 ? side.method : side.name} ${side.error ?? number(side.score)}`;
}

// In a list, where a narrow screen shows the beginning alone.
function optionOf(side) {
  if (side === REFERENCE) return labelOf(side);
  return `${side.error ?? number(side.score)} ${methods.length > 1 ? side.method : side.name}`;
}

function sideOf(side, other, key) {
  const isPicture = side !== REFERENCE, mapped = isPicture ? side : other; // over the reference, the result's map
  const withMap = ["both", key].includes($("map").value) && mapped && mapped !== REFERENCE && mapped.map;
  return {
    label: labelOf(side) + (b ? ` · ${key.toUpperCase()}` : ""),
    image: source(isPicture ? side.target : sequence[at].referenceImage),
    map: withMap ? source(mapped.map) : null,
    windows: isPicture && $("windows").checked ? side.windows : [],
  };
}

function draw(fit = false) {
  const pair = sequence[at];
  if (!pair) return;
  stage.show(pair.width, pair.height, [sideOf(a, b, "a"), ...(b ? [sideOf(b, a, "b")] : [])], { fit });
  $("place").textContent = `${at + 1}/${sequence.length}`;
  $("score").textContent = pair.error ?? number(pair.score);
  $("shown").textContent = nameOf(pair);
  for (const [id, side] of [["a", a], ["b", b]]) {
    $(id).replaceChildren(...choices().map((choice, k) =>
      element("option", { value: String(k), textContent: optionOf(choice), selected: choice === side })));
    $(id).parentElement.hidden = choices().length < 2 || !side;
  }
  const mapped = [a, b].find((side) => side && side !== REFERENCE && side.map);
  $("scale").hidden = !(mapped && $("map").value);
  [$("low").textContent, $("high").textContent] = [mapped?.mapLow, mapped?.mapHigh].map((x) => (x ?? 0).toFixed(2));
}

function set(key, side) {
  if (key === "a") [a, b] = [side, side === b ? a : b];
  else [a, b] = [side === a ? b : a, side];
  wanted = b && b !== REFERENCE ? b.method : REFERENCE;
  if (a !== REFERENCE && sequence.includes(a)) at = sequence.indexOf(a);
  draw();
}

function another(key) {
  const all = choices(), [now, taken] = key === "a" ? [a, b] : [b, a];
  const free = all.filter((choice) => choice !== taken);
  if (now && free.length > 1) set(key, free[(free.indexOf(now) + 1) % free.length]);
}

function go(step) {
  at = (at + step + sequence.length) % sequence.length;
  choose(sequence[at]);
  draw();
}

for (const key of ["a", "b"]) $(key).onchange = () => set(key, choices()[Number($(key).value)]);
$("previous").onclick = () => go(-1);
$("next").onclick = () => go(1);
$("swap").onclick = () => b && set("a", b);
$("close").onclick = () => viewer.close();
$("map").onchange = $("windows").onchange = () => draw();
for (const button of viewer.querySelectorAll("button, input"))
  button.addEventListener("click", (event) => { if (event.detail) stage.root.focus(); });
viewer.onkeydown = (event) => {
  const inField = event.target.matches("select") || (event.key === " " && event.target.matches("button, input"));
  if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    ArrowLeft: () => go(-1), ArrowRight: () => go(1), a: () => another("a"), b: () => another("b"),
    x: () => $("swap").click(), w: () => $("windows").click(), "?": () => keys.button.click(),
    m: () => {
      $("map").value = $("map").value ? "" : "both";
      draw();
    },
  };
  const action = event.shiftKey && event.key !== "?" ? undefined : actions[event.key];
  if (action) action();
  else if (!stage.key(event)) return;
  event.preventDefault();
};

for (const id of ["name", "from", "to"]) $(id).oninput = list;
new ResizeObserver(histogram).observe($("histogram").parentElement);
references();
list();
