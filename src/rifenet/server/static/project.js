// The project in this browser: classes, photos with their labels, results. Every change is kept in the store.
//
// A class is { id, name, colour, learned }. A photo is { id, role: "example" | "query", name, blob, width, height, labels,
// version, result, status, error, strokes, suggested, negative, accepted }: labels are at working size, at most SIDE px, and no
// two states of them have the same version. `suggested` labels were found by the model and nobody has confirmed them;
// a `negative` example shows none of the classes; an `accepted` photo is right as it is.
//
// Lists, results and strokes are replaced, and never written into: `changes.js` keeps what they were.

import { rgb } from "./dom.js";
import { counts, makeLabels, resized } from "./labels.js";
import * as store from "./store.js";

const SIDE = 1280;
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#0072b2", "#cc79a7"]; // Okabe and Ito's
const ROUNDS = [[0, 0], [0, 0.4], [255, 0.45], [0, 0.65], [255, 0.7]]; // the palette, then darker and lighter: the server's own
const THUMB = 192;
const SENT = 640; // px of a photo that is looked at beside others in one request
const PIXELS = new WeakMap(); // photo -> { version, counts }

const NEW = { classes: [], photos: [], chosen: 0, selected: null, adapt: false, adopted: null };
export const OPTIONS = { tiles: "auto", refine: "auto", instances: false, clean: false, keepAbsent: false, adopt: 3, formats: ["index", "overlay"] };

export const project = { ...NEW, here: false, options: { ...OPTIONS } };
// adapt: queries teach, too; adopted: { key, ids, revisions } of the examples, the queries that taught, and the classes since;
// here: queries are segmented on this device, and stay there

let lastVersion = Date.now();
const newVersion = () => ++lastVersion;
const newId = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;

/** A class's name as the server knows it. */
export const nameOf = ({ name }) => name.normalize("NFC").trim();
export const classOf = (id) => project.classes.find((each) => each.id === id);
export const selectedPhoto = () => project.photos.find((photo) => photo.id === project.selected) ?? null;
export const photosOf = (role) => project.photos.filter((photo) => photo.role === role);

/** Colour of the n-th class, from 0, where none was chosen; the server's masks have the same. */
export function colourOf(n) {
  const [target, share] = ROUNDS[Math.floor(n / COLOURS.length) % ROUNDS.length];
  const mixed = rgb(COLOURS[n % COLOURS.length]).map((level) => Math.round(level + (target - level) * share));
  return `#${mixed.map((level) => level.toString(16).padStart(2, "0")).join("")}`;
}

export function addClass(name = "") {
  const used = project.classes.map((each) => each.id), id = Array.from({ length: 254 }, (_, i) => i + 1).find((i) => !used.includes(i));
  if (!id) return null;
  const palette = Array.from({ length: COLOURS.length * ROUNDS.length }, (_, n) => colourOf(n));
  const colour = palette.find((each) => !project.classes.some((known) => known.colour === each)) ?? colourOf(id - 1);
  project.classes = [...project.classes, { id, name, colour, learned: null }];
  project.chosen = id;
  keepFacts();
  return id;
}

/** Removes a class, and its pixels from all labels and results; nobody has corrected these by that. */
export function removeClass(id) {
  project.classes = project.classes.filter((each) => each.id !== id);
  for (const photo of project.photos) {
    const { labels, result, strokes } = photo;
    if (labels.data.includes(id)) setLabels(photo, labels.data.map((value) => (value === id ? 0 : value)));
    if (result) {
      const found = result.found.filter((each) => each.id !== id), ids = Object.entries(result.ids).filter((pair) => pair[1] !== id);
      photo.result = { ...result, found, ids: Object.fromEntries(ids) }; // a new class may get the id
    }
    photo.strokes = strokes?.filter((each) => each.id !== id);
    keep(photo);
  }
  if (project.chosen === id) project.chosen = project.classes[0]?.id ?? 0;
  keepFacts();
}

function setLabels(photo, data) {
  photo.labels = { ...photo.labels, data };
  photo.version = newVersion();
}

/** Reads a picture file. Throws a sentence for a file that this browser cannot show. */
export async function readPhoto(blob, name, role) {
  const bitmap = await decode(blob).catch(() => {
    throw new Error(`${name} is not a picture that this browser can open. ${adviceOn(name)}`);
  });
  const { width, height } = bitmap, thumb = thumbOf(bitmap);
  bitmap.close();
  const states = { version: newVersion(), result: null, status: "new", error: "", strokes: [], suggested: false, negative: false, accepted: false };
  return { id: newId(), role, name, blob, width, height, thumb, labels: makeLabels(...workingSize({ width, height })), ...states };
}

const OTHERS = [
  [/\.tiff?$/i, "Save it as PNG, or let rifenet segment read it: stacks, scenes and all kinds of TIFF."],
  [/\.(mp4|mov|m4v|mkv|webm|avi)$/i, "It is a video: rifenet segment reads it, and the page its frames as pictures."],
  [/\.xml$/i, "Labels are masks or JSON here: export them from CVAT as COCO 1.0. rifenet segment reads the XML, too."],
];

const adviceOn = (name) => OTHERS.find(([ending]) => ending.test(name))?.[1] ?? "Use JPEG, PNG or WebP.";

export function removePhoto(photo) {
  project.photos = project.photos.filter((each) => each !== photo);
  if (project.selected === photo.id) project.selected = null;
}

export const dropKept = (photo) => store.removePhoto(photo.id).catch(problems.onstore);

/** Labels have changed by hand: what was learned from them is out of date. */
export function touch(photo) {
  Object.assign(photo, { version: newVersion(), suggested: false, negative: false });
  if (photo.result) photo.result = { ...photo.result, corrected: true };
  if (photo.status === "error") Object.assign(photo, { status: photo.result ? "done" : "new", error: "" });
  return keep(photo);
}

/** A segmented photo becomes an example with its labels as they are. */
export function makeExample(photo) {
  Object.assign(photo, { role: "example", result: null, status: "new", accepted: false, version: newVersion() });
}

/** Drops what was painted on a photo, and its result: a query then waits to be segmented again. */
export function clearWork(photo) {
  setLabels(photo, new Uint8Array(photo.labels.data.length));
  Object.assign(photo, { result: null, status: "new", error: "", strokes: [], suggested: false, negative: false, accepted: false });
}

/** Labels that were made elsewhere, of any size. */
export function giveLabels(photo, labels) {
  setLabels(photo, resized(labels, ...workingSize(photo)).data.slice());
  Object.assign(photo, { strokes: [], suggested: false, negative: false });
  if (photo.result) photo.result = { ...photo.result, corrected: true };
}

/** Labels that the model suggests for an example: they teach nothing before somebody has looked at them. */
export function suggest(photo, labels) {
  setLabels(photo, labels.data);
  photo.suggested = true;
  return keep(photo);
}

export function confirmSuggestion(photo) {
  Object.assign(photo, { suggested: false, version: newVersion() });
}

/** What the server found in a query. */
export function giveResult(photo, labels, result) {
  Object.assign(photo, { labels: { ...labels, data: labels.data.slice() }, result, status: "done", error: "", strokes: [], suggested: false, version: newVersion() });
  return keep(photo);
}

/** Pixels of each class in a photo's labels, 255 of them at index 255. */
export function pixels(photo) {
  const known = PIXELS.get(photo);
  if (known?.version === photo.version) return known.counts;
  const found = counts(photo.labels);
  PIXELS.set(photo, { version: photo.version, counts: found });
  return found;
}

export const shotsOf = (id) => photosOf("example").filter((photo) => !photo.suggested && pixels(photo)[id] > 0);
export const negatives = () => photosOf("example").filter((photo) => photo.negative);

/** Says what a class would be learned from now; another text means that it must be learned again. */
export const learnKey = (each) => [nameOf(each), ...shotsOf(each.id).map((photo) => `${photo.id}:${photo.version}`), ...negatives().map(({ id }) => `-${id}`)].join(" ");
export const projectKey = () => project.classes.filter((each) => shotsOf(each.id).length).map((each) => `${each.id} ${learnKey(each)}`).join("\n");

/** Says what a result would be made from now: the examples, whether the other photos teach, too, and the options. */
export const resultKey = () => projectKey() + (project.adapt ? "\nadapted" : "") + optionsKey();
export const lessonKey = () => projectKey() + (project.adapt ? `\nadapted ${project.options.adopt}` : "");

function optionsKey() {
  const { tiles, refine, clean, keepAbsent, adopt } = project.options, own = [];
  if (tiles !== OPTIONS.tiles) own.push(`tiles ${tiles}`);
  if (refine !== OPTIONS.refine) own.push(`refine ${refine}`);
  if (clean) own.push("clean");
  if (keepAbsent) own.push("absent");
  if (project.adapt && adopt !== OPTIONS.adopt) own.push(`adopt ${adopt}`);
  return own.map((each) => `\n${each}`).join("");
}

export const isBlank = (photo) => pixels(photo)[0] === photo.labels.data.length;
export const isPainted = (id) => project.photos.some((photo) => pixels(photo)[id] > 0);

/** Whether a query was corrected, painted by hand or accepted, so that it is not segmented unasked. */
export const isByHand = (photo) => photo.accepted || (photo.result ? photo.result.corrected : !isBlank(photo));

/** Whether a photo is a query that has no result by what `key` stands for, and that nobody has corrected or painted by hand. */
export function waits(photo, key) {
  if (photo.role !== "query" || !project.photos.includes(photo)) return false;
  return !isByHand(photo) && photo.result?.key !== key;
}

/** Queries that wait for a result by the examples as they are now. */
export function toSegment() {
  const key = resultKey();
  return project.photos.filter((photo) => waits(photo, key));
}

export function workingSize({ width, height }) {
  const scale = Math.min(1, SIDE / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** The photo at working size, upright. */
export async function bitmapOf(photo) {
  const [resizeWidth, resizeHeight] = workingSize(photo);
  return createImageBitmap(photo.blob, { resizeWidth, resizeHeight, resizeQuality: "high", imageOrientation: "from-image" });
}

/** A photo as a small JPEG: the model looks at fewer pixels. */
export const smallJpeg = (photo) => jpeg(photo, SENT);

async function jpeg(photo, side) {
  const bitmap = await bitmapOf(photo), canvas = scaled(bitmap, Math.min(1, side / Math.max(bitmap.width, bitmap.height)));
  bitmap.close();
  const made = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  COPIES.set(made, photo);
  return made;
}

const COPIES = new WeakMap(); // smaller copy -> its photo

/** Whether a file is a photo that stays on this device, or a copy of one. */
export const staysHere = (file) => project.here && photosOf("query").some((photo) => photo.blob === file || COPIES.get(file) === photo);

const SENDABLE = new WeakMap(); // photo -> its file at working size

/** The photo at the size of its labels, for the server: strokes are completed on what the stage shows. */
export function workingFile(photo) {
  if (Math.max(photo.width, photo.height) <= SIDE) return photo.blob;
  if (!SENDABLE.has(photo)) SENDABLE.set(photo, jpeg(photo, SIDE));
  return SENDABLE.get(photo);
}

/** The photo as a canvas whose longer side has so many pixels. */
export async function pictureOf(photo, side) {
  const bitmap = await bitmapOf(photo), canvas = scaled(bitmap, side / Math.max(bitmap.width, bitmap.height));
  bitmap.close();
  return canvas;
}

const decode = (blob) => createImageBitmap(blob, { imageOrientation: "from-image" });

const thumbOf = (bitmap) => scaled(bitmap, THUMB / Math.max(bitmap.width, bitmap.height));

function scaled(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

const problems = { onstore: () => {} };

/** Calls `tell` where the browser keeps nothing any more, e.g. because its disk is full. */
export const onStoreProblem = (tell) => Object.assign(problems, { onstore: tell });

/** Keeps a photo; what only this page needs (thumb, undo steps) is left out. */
export async function keep(photo) {
  if (!project.photos.includes(photo)) return; // removed while the server worked on it
  const { thumb, ...rest } = photo;
  await store.savePhoto({ ...rest, order: project.photos.indexOf(photo), status: photo.status === "running" ? "new" : photo.status }).catch(problems.onstore);
}

export async function keepFacts() {
  const { photos, ...facts } = project;
  await store.saveFacts(facts).catch(problems.onstore);
}

/** Brings back what the store holds. The names of the photos that this browser cannot open any more. */
export async function restore() {
  const lost = [];
  const { photos, facts } = await store.load();
  Object.assign(project, facts ?? {}, { options: { ...OPTIONS, ...facts?.options } });
  for (const photo of photos.sort((a, b) => a.order - b.order)) {
    const bitmap = await decode(photo.blob).catch(() => null);
    if (!bitmap) {
      lost.push(photo.name);
      continue;
    }
    photo.thumb = thumbOf(bitmap);
    bitmap.close();
    project.photos = [...project.photos, photo];
  }
  return lost;
}

export function startOver() {
  Object.assign(project, NEW, { options: { ...OPTIONS } });
}
