// One picture, or two that are compared: under a slider, side by side or blinking; moved and zoomed together.

export const KEYS = [
  ["1 2 3", "slider, side by side, blink"],
  ["Space", "blink: the other picture"],
  ["f", "fit the picture into the window"],
  ["o", "100 %: a pixel of the picture is one of the screen"],
  ["p", "never smooth pixels"],
  ["+ −", "larger, smaller"],
  ["Shift + arrows", "move"],
];
const MODES = { slider: "Slider", side: "Side by side", blink: "Blink" };
const LARGEST = 32, SMALLEST = 0.02;
const STEP = 60; // pixels that an arrow key moves

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class Stage {
  // `root` is the element to draw in; `changed` is called after each change of the view or the mode.
  constructor(root, changed = () => {}) {
    Object.assign(this, { root, changed, sides: [], width: 1, height: 1 });
    Object.assign(this, { mode: "slider", second: false, edge: 0.5, pixels: false, fitted: true });
    this.view = { x: 0, y: 0, zoom: 1 };
    root.classList.add("stage");
    this.#listen();
    new ResizeObserver(() => this.#place()).observe(root);
  }

  // One or two sides: { label, image, map, windows }, where image and map are addresses of pictures or
  // elements, and the last two may be missing.  The view stays unless `fit` is asked for.
  show(width, height, sides, { fit = false } = {}) {
    Object.assign(this, { width, height, sides });
    this.fitted ||= fit;
    this.draw();
  }

  get shownMode() { return this.sides.length > 1 ? this.mode : "blink"; }

  // The share of the screen's pixels that one of the picture covers along a side.
  get scale() { return this.view.zoom * devicePixelRatio; }

  setMode(mode) {
    this.second = this.mode === "blink" && mode === "blink" ? !this.second : false;
    this.mode = mode;
    this.draw();
  }

  fit() {
    this.fitted = true;
    this.#place();
  }

  // A pixel of the picture on one of the screen, around what is in the middle now.
  actual() {
    const { width, height } = this.#area();
    this.zoomAround(width / 2, height / 2, 1 / this.scale);
    for (const side of ["x", "y"]) this.view[side] = Math.round(this.view[side] * devicePixelRatio) / devicePixelRatio;
    this.#place();
  }

  setPixels(pixels) {
    this.pixels = pixels;
    this.#place();
  }

  zoomBy(factor) {
    const { width, height } = this.#area();
    this.zoomAround(width / 2, height / 2, factor);
  }

  zoomAround(x, y, factor) {
    const zoom = Math.min(LARGEST, Math.max(SMALLEST, this.view.zoom * factor)), change = zoom / this.view.zoom;
    this.view = { zoom, x: x - (x - this.view.x) * change, y: y - (y - this.view.y) * change };
    this.fitted = false;
    this.#place();
  }

  pan(x, y) {
    this.view.x += x;
    this.view.y += y;
    this.fitted = false;
    this.#place();
  }

  // Does what a key means here; says whether it means anything.
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    const actions = {
      1: () => this.setMode("slider"), 2: () => this.setMode("side"), 3: () => this.setMode("blink"),
      " ": () => this.setMode("blink"), 0: () => this.fit(), f: () => this.fit(), o: () => this.actual(),
      p: () => this.setPixels(!this.pixels), "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25),
      "-": () => this.zoomBy(0.8),
    };
    if (event.shiftKey && moves[event.key]) this.pan(...moves[event.key]);
    else if (Object.hasOwn(actions, event.key.toLowerCase())) actions[event.key.toLowerCase()]();
    else return false;
    return true;
  }

  draw() {
    const [one, two] = this.sides;
    if (!one) return this.root.replaceChildren();
    if (this.shownMode === "slider") {
      const box = element("div", { className: "pane" }, this.#layer(two), this.#layer(one));
      box.lastChild.classList.add("cut");
      box.append(this.#tag(one.label), this.#tag(two.label, "right"), this.#handle(box));
      this.root.replaceChildren(box);
    } else if (this.shownMode === "side") {
      this.root.replaceChildren(...this.sides.map((side) =>
        element("div", { className: "pane" }, this.#layer(side), this.#tag(side.label, "alone"))));
    } else {
      const side = this.second && two ? two : one;
      this.root.replaceChildren(
        element("div", { className: "pane" }, this.#layer(side), this.#tag(side.label, "alone")));
    }
    this.#place();
  }

  #layer({ label, image, map, windows = [] }) {
    const sheet = element("div", { className: "sheet" });
    for (const [picture, name] of [[image, ""], [map, "map"]]) {
      if (!picture) continue;
      const shown = typeof picture === "string"
        ? element("img", { src: picture, alt: name ? `quality map of ${label}` : label, draggable: false })
        : picture;
      if (name) shown.classList.add(name);
      shown.style.cssText = `width:${this.width}px;height:${this.height}px`;
      sheet.append(shown);
    }
    for (const [top, left, height, width, score] of windows) {
      const mark = element("div", { className: "window", textContent: score.toFixed(2) });
      mark.style.cssText = `left:${left}px;top:${top}px;width:${width}px;height:${height}px`;
      sheet.append(mark);
    }
    return element("div", { className: "layer" }, sheet);
  }

  #tag(label, place = "") {
    return element("span", { className: `tag ${place}`, textContent: label, hidden: !label });
  }

  #handle(box) {
    const handle = element("div", { className: "edge", tabIndex: 0, role: "slider", ariaLabel: "Edge",
      ariaValueMin: "0", ariaValueMax: "100" });
    const move = (edge) => {
      this.edge = Math.min(1, Math.max(0, edge));
      this.#place();
    };
    handle.onpointerdown = (event) => {
      event.stopPropagation();
      handle.setPointerCapture(event.pointerId);
      handle.onpointermove = ({ clientX }) => {
        const area = box.getBoundingClientRect();
        move((clientX - area.left) / area.width);
      };
      handle.onpointerup = handle.onpointercancel = () => { handle.onpointermove = null; };
    };
    handle.onkeydown = (event) => {
      const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 };
      if (event.shiftKey || !steps[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      move(this.edge + steps[event.key]);
    };
    return handle;
  }

  #area() { return (this.root.firstChild ?? this.root).getBoundingClientRect(); }

  #place() {
    const { width, height } = this.#area();
    if (this.fitted && width && height) {
      const zoom = Math.min(width / this.width, height / this.height);
      this.view = { zoom, x: (width - this.width * zoom) / 2, y: (height - this.height * zoom) / 2 };
    }
    const { x, y, zoom } = this.view;
    // Shrunk without smoothing, a picture would lose pixels; enlarged far, smoothing hides them.
    const rendering = this.scale > 2 || (this.pixels && this.scale >= 1) ? "pixelated" : "auto";
    for (const sheet of this.root.querySelectorAll(".sheet")) {
      sheet.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
      for (const picture of sheet.children) picture.style.imageRendering = rendering;
    }
    for (const layer of this.root.querySelectorAll(".cut"))
      layer.style.clipPath = `inset(0 ${(1 - this.edge) * 100}% 0 0)`;
    for (const handle of this.root.querySelectorAll(".edge")) {
      handle.style.left = `${this.edge * 100}%`;
      handle.ariaValueNow = String(Math.round(this.edge * 100));
    }
    this.changed(this);
  }

  #listen() {
    const { root } = this, pointers = new Map();
    const inPane = (x, y, target) => {
      const area = (target.closest?.(".stage > .pane") ?? root).getBoundingClientRect();
      return [x - area.left, y - area.top];
    };
    root.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAround(...inPane(event.clientX, event.clientY, event.target), Math.exp(-event.deltaY / 400));
    }, { passive: false });
    root.onpointerdown = (event) => {
      root.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    };
    root.onpointermove = (event) => {
      if (!pointers.has(event.pointerId)) return;
      const before = pointers.get(event.pointerId), now = [event.clientX, event.clientY];
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      pointers.set(event.pointerId, now);
      if (!other) return this.pan(now[0] - before[0], now[1] - before[1]);
      const distance = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]);
      this.zoomAround(...inPane(...other, root.firstChild), distance(now) / Math.max(distance(before), 1));
    };
    root.onpointerup = root.onpointercancel = (event) => pointers.delete(event.pointerId);
  }
}

// The buttons of a stage, which follow it when `update` is called.
export function controls(stage) {
  const modes = Object.entries(MODES).map(([mode, name], k) =>
    element("button", { textContent: name, title: `Key ${k + 1}`, onclick: () => stage.setMode(mode) }));
  const fit = element("button", { textContent: "Fit", title: "Key f", onclick: () => stage.fit() });
  const actual = element("button", { textContent: "100 %", title: "A pixel of the picture is one of the screen (key o)",
    onclick: () => stage.actual() });
  const pixels = element("button", { textContent: "Pixels", onclick: () => stage.setPixels(!stage.pixels),
    title: "Never smooth pixels; above 200 % they never are (key p)" });
  const zoom = element("span", { className: "zoom" });
  const update = () => {
    Object.keys(MODES).forEach((mode, k) => {
      modes[k].ariaPressed = String(stage.shownMode === mode);
      modes[k].hidden = stage.sides.length < 2;
    });
    fit.ariaPressed = String(stage.fitted);
    actual.ariaPressed = String(!stage.fitted && Math.abs(stage.scale - 1) < 1e-6);
    pixels.ariaPressed = String(stage.pixels);
    zoom.textContent = `${Math.round(stage.scale * 100)} %`;
  };
  // A click gives the keyboard back to the pictures, so that the space bar goes on blinking.
  for (const button of [...modes, fit, actual, pixels])
    button.addEventListener("click", (event) => { if (event.detail) stage.root.focus(); });
  return { modes, size: [fit, actual, pixels, zoom], update };
}

// A list of keys, hidden at first, and the button that shows it.
export function keyList(keys) {
  const list = element("dl", { className: "keys", hidden: true }, ...keys.map(([key, meaning]) =>
    element("div", {}, element("dt", {}, element("kbd", { textContent: key })), element("dd", { textContent: meaning }))));
  const button = element("button", { textContent: "? Keys", ariaExpanded: "false", title: "Key ?" });
  button.onclick = () => {
    list.hidden = !list.hidden;
    button.ariaExpanded = String(!list.hidden);
  };
  return { list, button };
}
