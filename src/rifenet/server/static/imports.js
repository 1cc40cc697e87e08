// Existing masks become labels of the page's photos: the server reads the files, classes are found or made by name.

import { ask, formOf } from "./api.js";
import { fromBase64 } from "./dom.js";
import { renamed } from "./labels.js";
import { stemOf } from "./pairing.js";
import { decodePng } from "./png.js";
import { addClass, classOf, nameOf, project } from "./project.js";

const AT_ONCE = 20; // photos that a JSON is asked for in one request

/**
 * What label files say of photos: { found: [{ photo, labels }], problems: [sentence], notes: [sentence] }. `progress` is told
 * of each file. Classes that the page lacks are made.
 */
export async function readMasks(photos, { masks, jsons }, progress) {
  const found = new Map(), problems = [], notes = new Set();
  progress.begin("Reading masks", masks.length + jsons.length);
  for (const { file, stem } of masks) {
    const photo = photos.find(({ name }) => stemOf(name) === stem);
    if (!photo) problems.push(`${file.name} belongs to no photo here. Drop it together with its photo, under the same name.`);
    else await attempt(file, [photo]);
    progress.step();
  }
  for (const file of jsons) {
    const before = found.size, failed = problems.length;
    for (let start = 0; start < photos.length; start += AT_ONCE) await attempt(file, photos.slice(start, start + AT_ONCE));
    if (!photos.length) problems.push(`${file.name} belongs to no photo here. Drop it together with its photos.`);
    else if (found.size === before && problems.length === failed) problems.push(`${file.name} annotates none of these photos: it names others.`);
    progress.step();
  }
  return { found: [...found].map(([photo, labels]) => ({ photo, labels })), problems: [...new Set(problems)], notes: [...notes] };

  async function attempt(file, some) {
    const form = [["labels", file, file.name], ["photos", JSON.stringify(some.map(({ name, width, height }) => ({ name, width, height })))]];
    try {
      const answer = await ask("/api/labels", { method: "POST", form: formOf(form) });
      problems.push(...answer.warnings);
      for (const { number, classes, mask, warnings } of answer.photos) {
        const numbers = Object.fromEntries(classes.map((each) => [each.id, idFor(each, classes.length)]));
        found.set(some[number - 1], renamed(await decodePng(fromBase64(mask)), { ...numbers, 255: 255 }));
        warnings.forEach((each) => notes.add(`${file.name}: ${each}`));
      }
    } catch (error) {
      problems.push(`${file.name}: ${error.message}`);
      if (!error.status) throw error; // no server
    }
  }
}

/**
 * The page's class for a label: that of its name; for a file of one label without a name, the chosen one; for numbers, the
 * class of that colour, or at that place. One that is missing is made.
 */
function idFor({ id, name, colour }, count) {
  if (name === null && count === 1) return project.chosen || made("");
  const same = name === null ? (each) => each.colour === colour : (each) => nameOf(each).toLowerCase() === name.normalize("NFC").trim().toLowerCase();
  const known = project.classes.find(same) ?? (name === null ? project.classes[id - 1] : null);
  return known?.id ?? made(name ?? `class ${id}`, colour);
}

/** A new class, or the row that waits for a name. */
function made(name, colour = null) {
  const empty = project.classes.find((each) => !nameOf(each) && project.photos.every((photo) => !photo.labels.data.includes(each.id)));
  const entry = empty ?? classOf(addClass());
  Object.assign(entry, { name, ...(colour ? { colour } : {}) });
  return entry.id;
}
