// Files that somebody chooses, drops or pastes land where they belong: examples, photos to segment, or masks of either.

import { now, recordSince } from "./changes.js";
import { readMasks } from "./imports.js";
import { sorted } from "./pairing.js";
import { giveLabels, isBlank, photosOf, project, readPhoto } from "./project.js";

const FEW = 5; // photos that are taken for examples where nobody has said what they are, and there is no example yet
const MOST = 20; // examples of a class

/**
 * Adds files [{ file, path }] to the project. `where` is "example", "query" or null where the page has to find out: photos that
 * come with masks are examples. { added: [photo], masks: number, problems: [sentence], notes: [sentence] }
 */
export async function take(files, where, progress) {
  const before = now(), kinds = sorted(files, project.photos.map(({ name }) => name)), problems = [], fresh = [];
  const role = where ?? (!photosOf("example").length && kinds.photos.length <= FEW ? "example" : "query");
  for (const file of kinds.photos) {
    try {
      fresh.push(await readPhoto(file, file.name, role));
    } catch (error) {
      problems.push(error.message);
    }
  }
  const open = project.photos.filter((photo) => isBlank(photo) || photo.suggested);
  let masks = 0;
  const notes = [];
  if (kinds.masks.length || kinds.jsons.length) {
    const read = await readMasks([...fresh, ...open], kinds, progress);
    problems.push(...read.problems);
    notes.push(...read.notes);
    masks = read.found.length;
    const room = Math.max(0, MOST - photosOf("example").length), teaching = read.found.slice(0, room);
    if (where === null && masks) for (const photo of fresh) photo.role = "query";
    for (const { photo, labels } of teaching) {
      giveLabels(photo, labels);
      Object.assign(photo, { role: "example", result: null, status: "new", accepted: false });
    }
    if (masks > room) notes.push(`${room} of ${masks} photos with masks are examples; a class has at most ${MOST}. The others wait to be segmented.`);
  }
  project.photos = [...project.photos, ...fresh];
  recordSince(before, fresh.length === 1 ? `adding ${fresh[0].name}` : fresh.length ? `adding ${fresh.length} photos` : "the masks");
  return { added: fresh, masks, problems, notes };
}
