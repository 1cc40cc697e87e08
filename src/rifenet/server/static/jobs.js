// Learning and segmenting: teaches the server the examples as they are now, then sends the queries one by one.

import { ask, formOf } from "./api.js";
import { fromBase64 } from "./dom.js";
import { segmentHere } from "./here.js";
import { forget } from "./history.js";
import { renamed, resized } from "./labels.js";
import { decodePng, encodePng } from "./png.js";
import { watched } from "./progress.js";
import { classOf, giveResult, isByHand, keepFacts, learnKey, lessonKey, nameOf, negatives, photosOf, project, resultKey, shotsOf, smallJpeg, workingSize } from "./project.js";

export const ASKED = 12; // photos in one request: more would take a slow machine longer than an answer may
const WORK = 60; // photos times classes in such a request

/** A sentence that says why the project cannot be learned yet, and the class that it concerns; null where it can. */
export function whatIsMissing() {
  const painted = project.classes.filter((each) => shotsOf(each.id).length);
  const names = project.classes.map(nameOf);
  const unnamed = project.classes.find((each) => !nameOf(each));
  const twice = project.classes.find((each, index) => nameOf(each) && names.indexOf(nameOf(each)) < index);
  if (unnamed) return { text: "Give each class a name first.", about: unnamed.id };
  if (twice) return { text: `Two classes are called ${nameOf(twice)}. Rename one.`, about: twice.id };
  if (!painted.length) return { text: "Mark a class on at least one photo first.", about: null };
  return null;
}

/**
 * A copy of what is to be learned. People go on painting and naming while the server works, and a result must say which
 * examples it was made from. { key, learned, options, classes: [{ entry, id, name, key, shots: [{ photo, labels }] }] }
 */
export function lesson() {
  const copies = new Map(); // one of each photo, whatever the number of its classes
  const shot = (photo) => {
    if (!copies.has(photo)) copies.set(photo, { photo, labels: { ...photo.labels, data: photo.labels.data.slice() } });
    return copies.get(photo);
  };
  const painted = project.classes.filter((each) => shotsOf(each.id).length);
  const classes = painted.map((entry) => ({ entry, id: entry.id, name: nameOf(entry), key: learnKey(entry), shots: shotsOf(entry.id).map(shot) }));
  return { key: resultKey(), learned: lessonKey(), adapt: project.adapt, options: { ...project.options }, background: negatives(), classes };
}

/** Makes the server's classes those of the lesson. `progress` is told of each class. */
export async function teach({ classes: wanted, background }, signal, progress = null) {
  const known = (await ask("/api/classes", { signal })).classes;
  for (const { name } of known) {
    if (!wanted.some((each) => each.name === name)) await ask(`/api/classes/${encodeURIComponent(name)}`, { method: "DELETE", signal });
  }
  const isKnown = ({ entry, name, key }) => {
    const there = known.find((one) => one.name === name);
    return there && entry.learned?.key === key && entry.learned.revision === there.revision;
  };
  const todo = wanted.filter((each) => !isKnown(each));
  progress?.begin("Learning the examples", todo.length);
  for (const { entry, id, name, key, shots } of todo) {
    const form = [["name", name], ["replace", "true"]];
    for (const { photo, labels } of shots) {
      const mask = resized(renamed(labels, { [id]: 1, 255: 255 }), photo.width, photo.height);
      form.push(["images", photo.blob, photo.name], ["masks", await encodePng(mask), "mask.png"]);
    }
    for (const photo of background) form.push(["background", photo.blob, photo.name]);
    const { classes } = await ask("/api/classes", { method: "POST", form: formOf(form), signal });
    entry.learned = { key, revision: classes.find((one) => one.name === name)?.revision };
    await keepFacts();
    progress?.step();
  }
}

/**
 * Does as `teach`. Where the lesson says so, some queries become extra examples. They are chosen once for the examples as they
 * are, so that a query that comes later is segmented like the others.
 */
export async function teachAll(wanted, signal, progress) {
  if (!wanted.adapt) return teach(wanted, signal, progress);
  const revisions = async () => JSON.stringify((await ask("/api/classes", { signal })).classes.map(({ name, revision }) => [name, revision]));
  const before = project.adopted?.key === wanted.learned ? project.adopted : null;
  if (before && before.revisions === (await revisions())) return;
  await teach(wanted, signal, progress);
  const photos = before ? photosOf("query").filter(({ id }) => before.ids.includes(id)) : await teachers(wanted, signal);
  if (photos.length) {
    const form = [["count", String(wanted.options.adopt)]];
    progress.begin("Looking for photos to learn from", photos.length);
    for (const photo of photos) form.push(["images", await smallJpeg(photo), photo.name]);
    await watched(progress, signal, () => ask("/api/adapt", { method: "POST", form: formOf(form), signal, retries: 1 }));
  }
  project.adopted = { key: wanted.learned, ids: photos.map(({ id }) => id), revisions: await revisions() };
  await keepFacts();
}

/** Queries from the whole list that may teach: not worked on by hand, and no examples once more; the more classes, the fewer. */
export async function teachers({ classes }, signal) {
  const { limits } = await ask("/api/health", { signal });
  const most = Math.max(1, Math.min(ASKED, limits.files, Math.floor(WORK / classes.length)));
  const photos = [];
  for (const photo of photosOf("query")) if (!isByHand(photo) && !(await isExample(photo))) photos.push(photo);
  const step = Math.max(1, photos.length / most);
  return photos.filter((_, i) => Math.floor(i / step) !== Math.floor((i - 1) / step));
}

async function isExample({ blob }) {
  for (const { blob: other } of photosOf("example")) {
    if (other.size !== blob.size) continue;
    const [bytes, own] = (await Promise.all([other.arrayBuffer(), blob.arrayBuffer()])).map((buffer) => new Uint8Array(buffer));
    if (own.every((value, i) => value === bytes[i])) return true;
  }
  return false;
}

/** The server's answer on a photo, with `mask` as labels and as a `png`. */
async function segmentThere(photo, options, signal) {
  const form = [["images", photo.blob, photo.name], ["tiles", options.tiles], ["refine", options.refine]];
  if (options.clean) form.push(["clean", "true"]);
  if (options.keepAbsent) form.push(["keep_absent", "true"]);
  const { results } = await ask("/api/segment", { method: "POST", form: formOf(form), signal });
  const [answer] = results, bytes = fromBase64(answer.mask);
  return { ...answer, mask: await decodePng(bytes), png: new Blob([bytes], { type: "image/png" }) };
}

/** What the lesson's classes are in a photo: { labels, result }, the labels at working size. Throws refusals and cancels. */
export async function predict(photo, { key, options, classes }, signal) {
  const find = project.here && photo.role === "query" ? segmentHere : segmentThere;
  const { mask, png, ...answer } = await find(photo, options, signal);
  const idOf = (name) => {
    const taught = classes.find((each) => each.name === name);
    return taught && classOf(taught.id) === taught.entry ? taught.id : 0; // 0: deleted meanwhile
  };
  const ids = Object.fromEntries(answer.classes.map(({ id, name }) => [id, idOf(name)]));
  const labels = resized(renamed(mask, ids), ...workingSize(photo));
  const found = answer.classes.filter(({ id }) => ids[id]).map((each) => factsOf(each, ids[each.id]));
  return { labels, result: { key, ids, png, calibrated: answer.calibrated, found, corrected: false, scale: labels.width / answer.width } };
}

/** What an answer says of a class; `quality` and `objects` are null where nobody knows, an object's box is [x, y, width, height]. */
function factsOf({ present, confidence, quality = null, instances = [] }, id) {
  const objects = instances?.map(({ box, area, centroid, score }) => ({ box, area, centroid, score })) ?? null;
  return { id, present, confidence, quality, objects };
}

/**
 * Segments one query by the lesson, and keeps the result: true. False where somebody worked on the photo meanwhile; it then
 * stays as it is. `busy` says whether somebody works on it now. Throws refusals and cancels.
 */
export async function segment(photo, lesson, busy, signal) {
  const { version, role, accepted } = photo, { labels, result } = await predict(photo, lesson, signal);
  if (photo.version !== version || photo.role !== role || photo.accepted !== accepted || busy(photo)) return false;
  forget(photo);
  await giveResult(photo, labels, result);
  return true;
}
