// A row a reference, which opens; a column a method, if there are several.

const mean = (list) => list.reduce((sum, x) => sum + x, 0) / list.length;

function head(...titles) {
  return element("thead", {}, element("tr", {}, ...titles.map(([title, className]) =>
    element("th", { scope: "col", className, textContent: title }))));
}

// Of each reference: its pictures and, for each method, the mean of its scores.
function groupsOf() {
  return [...byContent].map(([content, all]) => {
    const scores = methods.map((method) => {
      const its = all.filter((pair) => pair.method === method && pair.score !== null).map((pair) => pair.score);
      return its.length ? mean(its) : null;
    });
    return { content, all, scores, best: scores.reduce((a, b) => (a === null || (b !== null && b > a) ? b : a), null) };
  });
}

function compareMethods(groups) {
  const rows = methods.map((method, k) => {
    const its = scored.filter((pair) => pair.method === method).map((pair) => pair.score);
    const of = groups.map(({ scores, best }) => [scores[k], best, scores]).filter(([score]) => score !== null);
    const ranks = of.map(([score, , scores]) => 1 + scores.filter((x) => x !== null && x > score).length);
    return [method, its.length, its.length ? mean(its) : null, ranks.length ? mean(ranks) : null,
      of.filter(([score, best]) => score === best).length];
  }).sort((a, b) => (b[2] ?? -Infinity) - (a[2] ?? -Infinity));
  const compared = groups.filter(({ best }) => best !== null).length;
  $("methods").append(
    head(["method", ""], ...["images", "mean", "mean rank", "best of its references"].map((title) => [title, "number"])),
    element("tbody", {}, ...rows.map(([method, count, score, rank, won]) => element("tr", {},
      cell(method, "name"), cell(String(count)), cell(number(score)), cell(rank === null ? "–" : rank.toFixed(2)),
      cell(`${won} of ${compared}`)))));
}

// The pictures of a reference, each with its score; a click compares it with the reference.
function versions({ all, best }) {
  const sorted = [...all].sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
  return element("ul", { className: "versions" }, ...sorted.map((pair) => element("li", {},
    element("button", { className: "version", onclick: () => open(pair, sorted) }, thumbnail(pair),
      element("span", {}, element("strong", { className: pair.score !== null && pair.score === best ? "best" : "",
        textContent: pair.error ?? number(pair.score) }),
      element("span", { textContent: pair.method || pair.name }))))));
}

function references() {
  const groups = groupsOf(), several = methods.length > 1;
  if (!several && !groups.some(({ all }) => all.length > 1)) return;
  $("grouped").hidden = false;
  $("comparison").hidden = !several;
  if (several) compareMethods(groups);
  const many = methods.length > 2;
  $("references").classList.toggle("many", many);
  const titles = several
    ? [...methods.map((method) => [method, "number per"]), ...(many ? [["best", "number only-narrow"]] : [])]
    : [["images", "number"], ["best", "number"], ["mean", "number"], ["worst", "number"]];
  const body = element("tbody");
  $("references").append(head(["reference", ""], ...titles), body);
  const opened = new Set();
  const cells = ({ all, scores, best }) => {
    if (several) {
      const winner = methods[scores.indexOf(best)];
      return [...scores.map((score) => cell(number(score), `number per${score !== null && score === best ? " best" : ""}`)),
        ...(many ? [cell(best === null ? "–" : `${number(best)} ${winner}`, "number only-narrow")] : [])];
    }
    const its = all.filter((pair) => pair.score !== null).map((pair) => pair.score);
    const numbers = its.length ? [Math.max(...its), mean(its), Math.min(...its)] : [null, null, null];
    return [cell(String(all.length)), ...numbers.map((x) => cell(number(x)))];
  };
  const rows = (group) => {
    const detail = element("tr", { className: "detail", hidden: true });
    const button = element("button", { className: "plain opens" });
    const toggle = (open) => {
      opened[open ? "add" : "delete"](group.content);
      button.textContent = `${open ? "▾" : "▸"} ${group.content}`;
      button.ariaExpanded = String(open);
      detail.hidden = !open;
      if (open && !detail.firstChild)
        detail.append(element("td", { colSpan: titles.length + 1 }, versions(group)));
    };
    button.onclick = () => toggle(detail.hidden);
    toggle(opened.has(group.content));
    const made = element("tr", {}, element("td", { className: "name" }, button), ...cells(group));
    toggles.set(group.content, toggle);
    return [made, detail];
  };
  const toggles = new Map();
  fill(body, $("more-references"), groups, rows);
  const all = $("open-all");
  all.onclick = () => {
    const open = opened.size === 0;
    for (const toggle of toggles.values()) toggle(open);
    name();
  };
  const name = () => { all.textContent = opened.size ? "Close all" : "Open all"; };
  body.addEventListener("click", name);
  name();
}
