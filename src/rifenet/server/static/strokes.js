// Strokes on an object, and beside it, become its mask: the server completes them on what the stage shows.
//
// A stroke is { id, kind: "object" | "background", width, points: [[x, y], ...] } in pixels of the labels; `id` is its class.
// What the labels have of the class is the mask that strokes correct: the server changes it near them and leaves the rest.

import { ask, formOf } from "./api.js";
import { fromBase64 } from "./dom.js";
import { along, cut, reached, renamed } from "./labels.js";
import { decodePng, encodePng } from "./png.js";
import { classOf, learnKey, nameOf, workingFile } from "./project.js";

let running = null; // { photo, abort } while the server works on strokes

/** The photo that the server completes a mask on now, or null. */
export const completing = () => running?.photo ?? null;

export function stopCompleting() {
  running?.abort.abort();
  running = null;
}

/**
 * Adds a stroke to a photo and completes its class's mask. A stroke that comes while the server works on earlier ones takes
 * their place, with them in it. `act` has completed(photo, strokes, change), drawn() and say(text, bad).
 */
export async function mark(photo, stroke, act) {
  const waiting = running?.photo === photo ? running.strokes : photo.strokes ?? [];
  stopCompleting();
  const strokes = [...waiting, stroke], own = strokes.filter(({ id }) => id === stroke.id);
  const turn = { photo, strokes, abort: new AbortController() }, { version } = photo;
  running = turn;
  act.drawn();
  try {
    const { mask, warnings } = await completed(photo, stroke.id, own, turn.abort.signal);
    if (running !== turn) return;
    if (photo.version !== version || !classOf(stroke.id)) return act.say("The photo changed meanwhile. Draw the stroke again.", true);
    running = null;
    act.completed(photo, strokes, difference(photo.labels, merged(photo.labels, mask, stroke.id, own)));
    if (warnings.length) act.say(warnings.join(" "));
  } catch (error) {
    if (error.name !== "AbortError" && running === turn) act.say(error.message, true);
  } finally {
    if (running === turn) running = null;
    act.drawn();
  }
}

/** The mask of a class by its strokes, at the size of the labels, 1 the object. */
async function completed(photo, id, strokes, signal) {
  const lines = (kind) => JSON.stringify(strokes.filter((each) => each.kind === kind).map(({ points, width }) => ({ points, width })));
  const form = [["image", await workingFile(photo), photo.name], ["object", lines("object")], ["background", lines("background")]];
  if (photo.labels.data.includes(id)) form.push(["start", await encodePng(renamed(photo.labels, { [id]: 1 })), "start.png"]);
  const entry = classOf(id);
  if (entry.learned && entry.learned.key === learnKey(entry)) form.push(["name", nameOf(entry)]);
  const { mask, warnings = [] } = await ask("/api/complete", { method: "POST", form: formOf(form), signal, retries: 1 });
  return { mask: await decodePng(fromBase64(mask)), warnings };
}

/**
 * Labels in which the class has the mask's pixels and no others. Other classes keep theirs, except for regions that a stroke
 * on this object crosses: somebody says there that they are wrong.
 */
function merged(labels, mask, id, strokes) {
  const on = strokes.filter(({ kind }) => kind === "object"), others = labels.data.map((value) => Number(value && value !== id && value !== 255));
  const free = reached(labels, others, along(on)), { data: inside } = mask;
  return labels.data.map((value, place) => {
    if (inside[place]) return others[place] && !free[place] ? value : id;
    return value === id ? 0 : value;
  });
}

/** What to paint so that labels become those of `after`: { box, before, after }, the pixels of the box that holds all changes. */
function difference(labels, after) {
  const { width, height, data: before } = labels;
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (before[at] === after[at]) continue;
      if (x < left) left = x;
      if (x >= right) right = x + 1;
      if (y < top) top = y;
      bottom = y + 1;
    }
  }
  const box = right > left ? [left, top, right, bottom] : [0, 0, 1, 1]; // a stroke counts even where it changes no pixel
  return { box, before: cut(labels, box), after: cut({ ...labels, data: after }, box) };
}
