// Decodes pictures and scores their windows, so that the page stays quick.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { covering, cut, mapOf, meanOf, overlapping, places, SMALLEST } from "./windows.js";

const BATCH = 4; // windows that go through the network together
const WORST = 5; // windows that are marked
const MAP_STEP = 4; // the map has every fourth pixel, which loses nothing that can be seen
const WEIGHT = /^weights?$/; // the output that says how much a window counts, of models that have it
const BACKGROUND = "rgb(128 128 128)"; // under transparency

ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
// Several threads need a server that isolates the page, as `--serve` does.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;

class Plain extends Error {} // whose text is for the user
class Stopped extends Error {} // something newer is wanted

const sessions = new Map();
let newest = 0, pictures = [], queue = Promise.resolve();

function sessionOf(metric) {
  if (!sessions.has(metric.file)) {
    const url = new URL(metric.file, import.meta.url).href;
    sessions.set(metric.file, ort.InferenceSession.create(url, { executionProviders: ["wasm"] }));
  }
  return sessions.get(metric.file);
}

async function pictureOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Plain(`${file.name}: this browser cannot read it as a picture; expected PNG, JPEG, WebP, AVIF, GIF or BMP`);
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < SMALLEST)
    throw new Plain(`${file.name}: ${width} × ${height} pixels; expected ${SMALLEST} or more on each side`);
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.fillStyle = BACKGROUND;
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } catch {
    throw new Plain(`${file.name}: ${width} × ${height} pixels are more than this browser can decode; expected a smaller picture`);
  } finally {
    bitmap.close();
  }
}

// Some browsers change what pages read of a canvas, against fingerprinting; scores would be of another picture.
function readsExactly() {
  const context = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
  const image = context.createImageData(32, 32);
  image.data.forEach((_, k) => { image.data[k] = k % 4 === 3 ? 255 : (k * 37) % 256; });
  context.putImageData(image, 0, 0);
  const read = context.getImageData(0, 0, 32, 32).data;
  return read.every((value, k) => value === image.data[k]);
}

// MOS and, if the model has them, weights of windows of the pictures.
async function scoresOf(id, metric, where, what) {
  const session = await sessionOf(metric), { size } = metric;
  const weight = session.outputNames.find((name) => WEIGHT.test(name));
  const scores = [], weights = weight ? [] : null;
  for (let start = 0; start < where.length; start += BATCH) {
    postMessage({ id, state: "progress", what, done: start, of: where.length });
    await new Promise((resume) => { setTimeout(resume); }); // what was asked for meanwhile is heard
    if (id !== newest) throw new Stopped();
    const part = where.slice(start, start + BATCH);
    const names = metric.compares ? ["reference", "distorted"] : ["distorted"];
    const inputs = pictures.map((picture, k) =>
      [names[k], new ort.Tensor("float32", cut(picture, part, size), [part.length, size, size, 3])]);
    const outputs = await session.run(Object.fromEntries(inputs));
    scores.push(...outputs.mos.data);
    weights?.push(...outputs[weight].data);
  }
  return { scores, weights };
}

const tasks = {
  // Scores the files: the reference, if the metric compares with one, and the result.
  async score({ id, metric, files }) {
    pictures = [];
    for (const file of files) pictures.push(await pictureOf(file));
    const [first, { width, height }] = [pictures[0], pictures.at(-1)];
    if (first.width !== width || first.height !== height)
      throw new Plain(`the reference has ${first.width} × ${first.height} pixels and the result ${width} × ${height}; ` +
        "expected two pictures of one size");
    postMessage({ id, state: "loading" });
    await sessionOf(metric);
    const began = performance.now();
    const where = places(covering, height, width, metric.size);
    const { scores, weights } = await scoresOf(id, metric, where, "score");
    postMessage({
      id, state: "scored", score: meanOf(scores, weights), width, height, windows: where.length,
      seconds: (performance.now() - began) / 1000, exact: readsExactly(),
      mapWindows: places(overlapping, height, width, metric.size).length,
    });
  },

  // The map of the pictures that were scored last.
  async map({ id, metric }) {
    const { width, height } = pictures[0], { size } = metric;
    const where = places(overlapping, height, width, size);
    const { scores } = await scoresOf(id, metric, where, "map");
    const map = mapOf(scores, where, height, width, size, MAP_STEP);
    const worst = scores.map((score, k) => [score, ...where[k]]).sort((a, b) => a[0] - b[0]).slice(0, WORST)
      .map(([score, top, left]) => [top, left, Math.min(size, height - top), Math.min(size, width - left), score]);
    postMessage({ id, state: "mapped", map, worst }, [map.values.buffer]);
  },

  async stop() {},

  // Before anything is asked for, so that the first score comes sooner.
  async load({ metrics }) {
    for (const metric of metrics) await sessionOf(metric);
  },
};

onmessage = ({ data }) => {
  newest = data.id;
  queue = queue.then(() => (data.id === newest ? tasks[data.task](data) : null)).catch((error) => {
    if (error instanceof Stopped) return;
    const text = error instanceof Plain ? error.message : `this browser could not compute it (${error.message ?? error})`;
    postMessage({ id: data.id, state: "failed", text });
  });
};
