// On this device: the photos to segment stay in this browser. Its worker (device/worker.js) finds the classes that the server has
// learned from the examples. Where that cannot be, the page says why, and nobody's photo goes to the server unasked.

import { ask, fetched, Refusal, warn } from "./api.js";
import { find, say } from "./dom.js";
import { encodePng } from "./png.js";
import { keepFacts, project } from "./project.js";

/** Says that this device cannot do what was asked; `status` as of a refusal of no photo in particular. */
export class NotHere extends Refusal {
  constructor(sentence) {
    super(sentence, 0);
  }
}

const LEAST = "This browser is too old for it: it lacks";
// A function that adds up the bits of 16 bytes at once: only a WebAssembly with vectors takes it.
const VECTORS = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const MOST_THREADS = 4; // a phone's fast cores

let offer = null; // what the server has for it; null until it was asked
let device = null; // the worker, its tasks and the state of its classes, once the model is loaded

/** Why photos cannot be segmented on this device, in a sentence; "" where they can. */
export async function whyNot() {
  if (typeof WebAssembly === "undefined") return `${LEAST} WebAssembly.`;
  if (!WebAssembly.validate(Uint8Array.from(VECTORS))) return `${LEAST} WebAssembly's vectors (SIMD).`;
  if (typeof OffscreenCanvas === "undefined") return `${LEAST} a canvas outside the page.`;
  offer = await ask("/api/in-browser");
  return offer.offered ? "" : "This server does not offer it: whoever starts it adds --in-browser.";
}

/** Why a run with these choices needs the server, in a sentence; "" where it does not. */
export const whyServer = ({ adapt }) => (adapt ? "Photos teach on the server only." : "");

/** Wires the switch. `changed` is called after each change. */
export function wireHere(changed) {
  find("#here").addEventListener("change", async ({ target }) => {
    const why = target.checked ? await whyNot().catch(({ message }) => message) : "";
    choose(target.checked && !why);
    changed();
    if (why) say(`${why} Photos to segment go to the server, as before.`, true);
  });
}

export function drawHere() {
  find("#here").checked = project.here;
  find("#here-note").textContent = project.here
    ? "Photos to segment stay in this browser, which computes their masks. Examples go to the server, which learns from them."
    : "The photos go to the server. Ticked, they stay in this browser, which computes their masks.";
}

export function choose(on) {
  project.here = on;
  if (!on) stop();
  keepFacts();
}

/** Makes this device ready for the classes as the server has learned them. Throws a sentence, or a cancel. */
export async function prepare(signal, progress) {
  if (!device) {
    progress.begin("Loading the model into this browser", 1);
    await load(signal);
  }
  const { classes } = await ask("/api/classes", { signal }), key = JSON.stringify(classes.map(({ name, revision }) => [name, revision]));
  if (device.learned === key) return;
  const file = await fetched("/api/learned", signal);
  await told({ classes: file }, signal, [file]);
  device.learned = key;
}

async function load(signal) {
  const why = await whyNot();
  if (why) throw new NotHere(why);
  const { card, quality, files } = offer;
  const bytes = (name) => fetched(files[name], signal).catch((error) => {
    throw error.status ? new NotHere(error.message) : error; // else it was cancelled, or there is no server
  });
  const [query, decode, wasm] = await Promise.all(["encode_query", "decode", "wasm"].map(bytes));
  const threads = globalThis.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
  const address = (name) => new URL(files[name], location.href).href;
  device = { worker: new Worker("/static/device/worker.js", { type: "module" }), tasks: new Map(), learned: "" };
  const { worker, tasks } = device;
  worker.addEventListener("message", ({ data: { id, done, failed, unreadable } }) => {
    const task = tasks.get(id);
    tasks.delete(id);
    if (failed === undefined) task?.resolve(done);
    else task?.reject(Object.assign(new Error(failed), { unreadable }));
  });
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    stop(event.message || "its program could not be loaded");
  });
  const graphs = { encode_query: query, decode }, runtime = { module: address("module"), glue: address("glue"), wasm };
  await told({ load: { card, quality, graphs, runtime, threads } }, signal, [query, decode, wasm]).catch((error) => {
    stop();
    if (error.name === "AbortError") throw error;
    throw new NotHere(`The model does not run in this browser (${error.message}).`);
  });
}

/** Ends the worker; what waits for it fails. */
function stop(why = "it was stopped") {
  device?.worker.terminate();
  for (const { reject } of device?.tasks.values() ?? []) reject(new Error(why));
  device = null;
}

let tasks = 0;

/** The worker's answer. A cancel ends the wait; the worker then finishes for nobody. */
function told(message, signal, handed = []) {
  return new Promise((resolve, reject) => {
    const id = ++tasks;
    device.tasks.set(id, { resolve, reject });
    device.worker.postMessage({ id, ...message }, handed);
    signal?.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
  });
}

const rounded = (share) => Math.round(share * 1e4) / 1e4; // as the server tells shares

/** What this device finds in a photo, as the server answers: { mask, png, width, calibrated, classes }. Throws refusals and cancels. */
export async function segmentHere(photo, { tiles, refine, keepAbsent, clean, instances }, signal) {
  let found;
  try {
    found = await told({ photo: photo.blob, options: { tiles, refine, keepAbsent, clean } }, signal);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(`This device cannot segment ${photo.name}: ${error.message}. It was not sent. Without "On this device" the server segments it.`, 422);
  }
  const { mask, calibrated, names } = found;
  const classes = found.classes.map(({ objects, present, confidence, quality }, index) => {
    const instances = objects?.map(({ score, ...each }) => ({ ...each, score: rounded(score) })) ?? null;
    return { id: index + 1, name: names[index], present, confidence: rounded(confidence), quality: rounded(quality), instances };
  });
  for (const { name, instances: objects } of instances ? classes : []) {
    if (!objects) warn(`Objects of ${name} touch in some photos. Only the server takes them apart, so they are not counted there.`);
  }
  return { mask, png: await encodePng(mask), width: mask.width, calibrated, classes };
}
