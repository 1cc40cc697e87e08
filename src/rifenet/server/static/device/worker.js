// Segments photos in this browser, in a thread of its own, so that the page goes on. Nothing here asks the network for anything but
// the runtime's own modules: the page hands over the graphs, the classes and the photos.
//
// In: { id, load: { card, graphs, runtime } }, { id, classes: ArrayBuffer }, { id, photo: Blob, options }.
// Out: { id, done } or { id, failed, unreadable }.

import { answerOf, confidenceOf } from "./answer.js";
import { readClasses } from "./learned.js";
import { Seen } from "./margins.js";
import { Network } from "./network.js";
import { decoded, roundHalfEven, squared, Unreadable } from "./photo.js";
import { isLarge, withTiles } from "./tiles.js";

let network = null, model = null, classes = [];

async function load({ card, graphs, runtime, threads, quality }) {
  const ort = await import(runtime.module);
  ort.env.wasm.wasmPaths = { mjs: runtime.glue };
  ort.env.wasm.wasmBinary = runtime.wasm;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  network = await Network.open(ort, card, graphs);
  model = { calibration: card.calibration, threshold: card.mask_threshold, quality };
  return { threads };
}

function learn(buffer) {
  const read = readClasses(buffer);
  if (read.hash !== network.card.hash) throw new Error("The classes are another model's. Load the page again.");
  const floats = (part) => part && new Float32Array(part.bytes);
  classes = read.classes.map((known) => ({
    ...known,
    context: Object.fromEntries(Object.entries(known.context).map(([name, part]) => [name, network.tensor(part)])),
    weights: floats(known.arrays.weights),
    bias: floats(known.arrays.bias)?.[0],
    look: floats(known.arrays.look),
  }));
  return { names: classes.map(({ name }) => name) };
}

async function segment(photo, { tiles, refine, keepAbsent, clean }) {
  const picture = await decoded(photo), input = squared(picture, network.size);
  const seen = await Seen.of(network, input), maps = [];
  for (const known of classes) maps.push(await seen.margins(known));
  const confidences = classes.map((known, n) => confidenceOf(maps[n].data, input.valid, model.calibration, known));
  const shown = (n) => keepAbsent || (model.calibration ? confidences[n] >= 0.5 : maps[n].data.some((margin) => margin > 0));
  const chosen = (option, fitted) => (option === "auto" ? fitted : option === "yes");
  const tiled = classes.map(({ fit }, n) => chosen(tiles, isLarge(input.placement) || Boolean(fit?.tiles)) && shown(n));
  const first = { maps, placement: input.placement };
  const whole = tiled.some(Boolean) ? await withTiles(network, picture, classes, tiled, maps, input.placement) : first;
  const found = { ...whole, confidences, high: realPart(seen.features.high, input.placement) };
  const edges = classes.map(({ fit }) => chosen(refine, Boolean(fit?.refine)));
  const answer = answerOf(picture, classes, found, model, { keepAbsent, refine: edges, clean });
  return { ...answer, calibrated: Boolean(model.calibration), names: classes.map(({ name }) => name) };
}

/** The high features without the padding, on a whole number of positions. */
function realPart(tensor, { scaledWidth, scaledHeight, size }) {
  if (!tensor) return null;
  const part = (length, side) => Math.max(1, roundHalfEven((length * side) / size));
  return { tensor, rows: part(scaledHeight, tensor.dims[2]), columns: part(scaledWidth, tensor.dims[3]) };
}

async function answered({ load: parts, classes: file, photo, options }) {
  if (parts) return load(parts);
  if (file) return learn(file);
  return segment(photo, options);
}

let last = Promise.resolve();
self.addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id: data.id, done: await answered(data) });
    } catch (error) {
      self.postMessage({ id: data.id, failed: error.message ?? String(error), unreadable: error instanceof Unreadable });
    }
  });
});
