// The project in this browser: classes, photos with their labels, results. Every change is kept in the store.
//
// A class is { id, name, colour, learned }. A photo is { id, role: "example" | "query", name, blob, width, height, labels,
// version, result, status, error }: labels are at working size, at most SIDE px; version counts their changes.

import { rgb } from "./dom.js";
import { counts, makeLabels } from "./labels.js";
import * as store from "./store.js";

const SIDE = 1280;
const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#0072b2", "#cc79a7"]; // Okabe and Ito's
const ROUNDS = [[0, 0], [0, 0.4], [255, 0.45], [0, 0.65], [255, 0.7]]; // the palette, then darker and lighter: the server's own
const THUMB = 192;
const SENT = 640; // px of a photo that is looked at beside others in one request
const PIXELS = new WeakMap(); // photo -> { version, counts }

export const project = { classes: [], photos: [], chosen: 0, selected: null, adapt: false, adopted: null };
// adapt: queries teach, too; adopted: { key, ids, revisions } of the examples, the queries that taught, and the classes since

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
  project.classes.push({ id, name, colour, learned: null });
  project.chosen = id;
  keepFacts();
  return id;
}

/** Removes a class, and its pixels from all labels and results; nobody has corrected these by that. */
export function removeClass(id) {
  project.classes = project.classes.filter((each) => each.id !== id);
  for (const photo of project.photos) {
    const { labels, result } = photo;
    if (labels.data.includes(id)) {
      labels.data = labels.data.map((value) => (value === id ? 0 : value));
      photo.version++;
    }
    photo.history = { undo: [], redo: [] }; // its steps would bring the class back
    if (result) {
      result.found = result.found.filter((each) => each.id !== id);
      result.ids = Object.fromEntries(Object.entries(result.ids).filter((pair) => pair[1] !== id)); // a new class may get the id
    }
    keep(photo);
  }
  if (project.chosen === id) project.chosen = project.classes[0]?.id ?? 0;
  keepFacts();
}

/** Adds a picture file. Throws a sentence for a file that this browser cannot show. */
export async function addPhoto(blob, name, role) {
  const photo = { id: newId(), role, name, blob, labels: null, version: 0, result: null, status: "new", error: "" };
  const bitmap = await decode(blob).catch(() => {
    throw new Error(`${name} is not a picture that this browser can open. Use JPEG, PNG or WebP.`);
  });
  Object.assign(photo, { width: bitmap.width, height: bitmap.height });
  photo.thumb = thumbOf(bitmap);
  bitmap.close();
  photo.labels = makeLabels(...workingSize(photo));
  project.photos.push(photo);
  await keep(photo);
  return photo;
}

export function removePhoto(photo) {
  project.photos = project.photos.filter((each) => each !== photo);
  if (project.selected === photo.id) project.selected = null;
  return store.removePhoto(photo.id).catch(problems.onstore);
}

/** Labels have changed: what was learned from them is out of date. */
export function touch(photo) {
  photo.version++;
  if (photo.result) photo.result.corrected = true;
  if (photo.status === "error") Object.assign(photo, { status: photo.result ? "done" : "new", error: "" });
  return keep(photo);
}

/** A segmented photo becomes an example with its labels as they are. */
export function makeExample(photo) {
  Object.assign(photo, { role: "example", result: null, status: "new", version: photo.version + 1 });
  return keep(photo);
}

/** Drops what was painted on a query, and its result: it waits to be segmented again. */
export function clearWork(photo) {
  photo.labels.data.fill(0);
  Object.assign(photo, { result: null, status: "new", error: "", history: { undo: [], redo: [] }, version: photo.version + 1 });
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

export const shotsOf = (id) => photosOf("example").filter((photo) => pixels(photo)[id] > 0);

/** Says what a class would be learned from now; another text means that it must be learned again. */
export const learnKey = (each) => [nameOf(each), ...shotsOf(each.id).map((photo) => `${photo.id}:${photo.version}`)].join(" ");
export const projectKey = () => project.classes.filter((each) => shotsOf(each.id).length).map((each) => `${each.id} ${learnKey(each)}`).join("\n");

/** Says what a result would be made from now: the examples, and whether the other photos teach, too. */
export const resultKey = () => projectKey() + (project.adapt ? "\nadapted" : "");

export const isBlank = (photo) => pixels(photo)[0] === photo.labels.data.length;
export const isPainted = (id) => project.photos.some((photo) => pixels(photo)[id] > 0);

/** Whether a query was corrected or painted by hand, so that it is not segmented unasked. */
export const isByHand = (photo) => (photo.result ? photo.result.corrected : !isBlank(photo));

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
export async function smallJpeg(photo) {
  const bitmap = await bitmapOf(photo), canvas = scaled(bitmap, Math.min(1, SENT / Math.max(bitmap.width, bitmap.height)));
  bitmap.close();
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
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
  const { thumb, history, ...rest } = photo;
  await store.savePhoto({ ...rest, order: project.photos.indexOf(photo), status: photo.status === "running" ? "new" : photo.status }).catch(problems.onstore);
}

export async function keepFacts() {
  const { classes, chosen, selected, adapt, adopted } = project;
  await store.saveFacts({ classes, chosen, selected, adapt, adopted }).catch(problems.onstore);
}

/** Brings back what the store holds. The names of the photos that this browser cannot open any more. */
export async function restore() {
  const lost = [];
  const { photos, facts } = await store.load();
  Object.assign(project, facts ?? {});
  for (const photo of photos.sort((a, b) => a.order - b.order)) {
    const bitmap = await decode(photo.blob).catch(() => null);
    if (!bitmap) {
      lost.push(photo.name);
      continue;
    }
    photo.thumb = thumbOf(bitmap);
    bitmap.close();
    project.photos.push(photo);
  }
  return lost;
}

export async function startOver() {
  Object.assign(project, { classes: [], photos: [], chosen: 0, selected: null, adapt: false, adopted: null });
  await store.clear().catch(problems.onstore);
}
