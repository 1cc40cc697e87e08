// Learning and segmenting: the server is taught what the examples say now, then gets the queries one by one.

import { ask, formOf } from "./api.js";
import { fromBase64 } from "./dom.js";
import { renamed, resized } from "./labels.js";
import { decodePng, encodePng } from "./png.js";
import { keep, keepFacts, learnKey, project, projectKey, shotsOf, workingSize } from "./project.js";

/** Why the project cannot be learned yet, as a sentence and the class it is about; null where it can. */
export function whatIsMissing() {
  const painted = project.classes.filter((each) => shotsOf(each.id).length);
  const names = project.classes.map((each) => each.name.trim());
  const unnamed = project.classes.find((each) => !each.name.trim());
  const twice = project.classes.find((each, index) => each.name.trim() && names.indexOf(each.name.trim()) < index);
  if (unnamed) return { text: "Give each class a name first.", about: unnamed.id };
  if (twice) return { text: `Two classes are called ${twice.name.trim()}. Rename one.`, about: twice.id };
  if (!painted.length) return { text: "Paint a class on at least one photo first.", about: null };
  return null;
}

/** Makes the server's classes those of the examples. */
export async function teach(signal) {
  const known = (await ask("/api/classes", { signal })).classes;
  const wanted = project.classes.filter((each) => shotsOf(each.id).length);
  for (const { name } of known) {
    if (!wanted.some((each) => each.name.trim() === name)) await ask(`/api/classes/${encodeURIComponent(name)}`, { method: "DELETE", signal });
  }
  for (const each of wanted) {
    const key = learnKey(each), there = known.find((one) => one.name === each.name.trim());
    if (there && each.learned?.key === key && each.learned.revision === there.revision) continue;
    const form = [["name", each.name.trim()], ["replace", "true"]];
    for (const photo of shotsOf(each.id)) {
      const mask = resized(renamed(photo.labels, { [each.id]: 1, 255: 255 }), photo.width, photo.height);
      form.push(["images", photo.blob, photo.name], ["masks", await encodePng(mask), "mask.png"]);
    }
    const { classes } = await ask("/api/classes", { method: "POST", form: formOf(form), signal });
    each.learned = { key, revision: classes.find((one) => one.name === each.name.trim()).revision };
    await keepFacts();
  }
}

/** Segments one query and keeps the result. A refusal is kept as the photo's error; only a cancel is thrown. */
export async function segment(photo, signal) {
  const key = projectKey();
  const { results } = await ask("/api/segment", { method: "POST", form: formOf([["images", photo.blob, photo.name]]), signal });
  const [answer] = results;
  const ids = Object.fromEntries(answer.classes.map(({ id, name }) => [id, project.classes.find((each) => each.name.trim() === name)?.id ?? 0]));
  const bytes = fromBase64(answer.mask);
  photo.labels = { ...resized(renamed(await decodePng(bytes), ids), ...workingSize(photo)) };
  photo.result = {
    key,
    ids,
    png: new Blob([bytes], { type: "image/png" }),
    calibrated: answer.calibrated,
    found: answer.classes.map(({ id, present, confidence }) => ({ id: ids[id], present, confidence })),
    corrected: false,
  };
  Object.assign(photo, { status: "done", error: "", history: null, version: photo.version + 1 });
  await keep(photo);
}
