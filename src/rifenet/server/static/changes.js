// Changes of the project that can be undone: what they touch goes back as it was.

import { record } from "./history.js";
import { paste } from "./labels.js";
import * as model from "./project.js";

const { project } = model;
const FACTS = ["role", "result", "status", "error", "strokes", "suggested", "negative", "accepted", "version"];

const factsOf = (photo) => Object.fromEntries(FACTS.map((name) => [name, photo[name]]));

/** The project as it is now, for `recordSince`. */
export function now() {
  const { photos, ...rest } = project;
  const each = new Map(photos.map((photo) => [photo, { data: photo.labels.data, facts: factsOf(photo) }]));
  return { photos, rest, each, looks: project.classes.map(({ name, colour }) => ({ name, colour })) };
}

/** Records what has changed since `before` as one step. Changes replace labels and lists, and do not write into them. */
export function recordSince(before, text) {
  const after = now(), go = (from, to) => () => {
    putBack(to);
    keepChanged(from, to);
  };
  keepChanged(before, after);
  record({ text, photo: null, undo: go(after, before), redo: go(before, after) });
}

function changed(text, change) {
  const before = now();
  change();
  recordSince(before, text);
}

function putBack({ photos, rest, each, looks }) {
  Object.assign(project, rest, { photos });
  rest.classes.forEach((entry, index) => Object.assign(entry, looks[index]));
  for (const [photo, { data, facts }] of each) {
    photo.labels = { ...photo.labels, data }; // the server may have segmented it since, but nobody has painted on that
    Object.assign(photo, facts);
  }
}

function keepChanged(from, to) {
  for (const photo of from.photos) if (!to.photos.includes(photo)) model.dropKept(photo);
  for (const photo of to.photos) if (isOther(from.each.get(photo), to.each.get(photo))) model.keep(photo);
  model.keepFacts();
}

const isOther = (a, b) => !a || a.data !== b.data || FACTS.some((name) => a.facts[name] !== b.facts[name]);

/**
 * A stroke or polygon on a photo: pixels of `box` before and after. `strokes` are those of the photo from now on; none after
 * somebody has painted, so that the next one corrects what is there.
 */
export function paint(photo, box, before, after, strokes = []) {
  const facts = factsOf(photo);
  photo.strokes = strokes;
  model.touch(photo);
  const then = factsOf(photo), go = (data, to) => () => {
    paste(photo.labels, box, data);
    Object.assign(photo, to);
    model.keep(photo);
  };
  record({ text: "a stroke", photo, undo: go(before, facts), redo: go(after, then) });
}

/** As `paint`, for pixels that are not painted yet. */
export function complete(photo, box, before, after, strokes) {
  paste(photo.labels, box, after);
  paint(photo, box, before, after, strokes);
}

export const removePhoto = (photo) => changed(`removing ${photo.name}`, () => model.removePhoto(photo));
export const addClass = () => changed("adding a class", () => model.addClass());

export function removeClass(id) {
  changed(`deleting ${model.nameOf(model.classOf(id)) || "a class"}`, () => {
    model.removeClass(id);
    if (!project.classes.length) model.addClass();
  });
}

/** A class has got another name or colour; `before` is what it was, for the page shows each letter at once. */
export function lookedAt(entry, before) {
  const after = { name: entry.name, colour: entry.colour };
  if (after.name === before.name && after.colour === before.colour) return;
  const go = (look) => () => {
    Object.assign(entry, look);
    model.keepFacts();
  };
  record({ text: after.name === before.name ? "another colour" : "another name", photo: null, undo: go(before), redo: go(after) });
}

export const makeExample = (photo) => changed(`${photo.name} as an example`, () => model.makeExample(photo));
export const clearWork = (photo) => changed(`clearing ${photo.name}`, () => model.clearWork(photo));
export const accept = (photo, accepted) => changed(`${accepted ? "accepting" : "opening"} ${photo.name}`, () => (photo.accepted = accepted));
export const confirmSuggestion = (photo) => changed(`accepting ${photo.name}`, () => model.confirmSuggestion(photo));

/** An example shows none of the classes, or is to be painted after all. */
export const setNegative = (photo, negative) =>
  changed(`${photo.name} ${negative ? "shows none" : "to be marked"}`, () => {
    model.clearWork(photo);
    photo.negative = negative;
  });

export const startOver = () =>
  changed("starting over", () => {
    model.startOver();
    model.addClass();
  });
