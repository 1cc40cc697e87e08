// Everything that somebody can do on the page, and what the parts of the page are told of it.

import { drawAdvice, dropAdvice } from "./advice.js";
import * as changes from "./changes.js";
import { classActs } from "./class_actions.js";
import { find, say } from "./dom.js";
import { Editor } from "./editor.js";
import { drawGallery, focused } from "./gallery.js";
import { choose, drawHere } from "./here.js";
import * as history from "./history.js";
import { drawOptions } from "./options.js";
import { colours, drawClasses, drawFacts, drawHint, drawPhotos, drawRun, drawThumb, drawWork } from "./panels.js";
import * as model from "./project.js";
import * as review from "./review.js";
import { cancel, isRunning, run } from "./runs.js";
import { mark, stopCompleting } from "./strokes.js";
import { stopSuggesting, suggestFor } from "./suggest.js";

const { project } = model;
const PLURAL = { example: "examples", query: "queries" };
let gallery = false; // whether results are shown instead of the photo
let isUsed = false; // whether somebody has used the stage since the run began
let working = null; // the progress of what the server does for the page, or null
let shows = 0;

export const editor = new Editor(find("#canvas"), {
  painted(photo, box, before, after) {
    isUsed = true;
    stopWork();
    changes.paint(photo, box, before, after);
    drawPainted(photo);
  },
  marked(photo, stroke) {
    isUsed = true;
    stopSuggesting();
    mark(photo, stroke, act);
  },
  cornered: () => drawHint(editor),
});

export const act = {
  say,
  changed: () => refresh({ photos: true }),
  drawThumb: (photo) => drawThumb(photo, act),
  busyWith: (photo) => editor.isWorkingOn(photo),
  progressed(progress) {
    working = progress;
    refresh();
  },

  ...classActs({ editor, refresh, refreshAll, stopWork, offerUndo, drawHint: () => drawHint(editor) }),

  // Photos

  async open(photo) {
    isUsed = true;
    showGallery(false);
    await show(photo);
    if (matchMedia("(max-width: 860px)").matches) find("#stage").scrollIntoView({ block: "start" });
  },
  async removePhoto(photo) {
    const others = model.photosOf(photo.role), index = others.indexOf(photo), next = others[index + 1] ?? others[index - 1];
    if (editor.photo === photo) stopWork();
    changes.removePhoto(photo);
    if (editor.photo === photo) await show(null);
    refresh({ photos: true });
    find(next ? `[data-focus="remove-${next.id}"]` : `#pick-${PLURAL[photo.role]}`).focus({ preventScroll: true });
    offerUndo(`Removed ${photo.name}.`);
  },
  clearWork(photo, text = `Cleared ${photo.name}.`) {
    stopWork();
    changes.clearWork(photo);
    redrawn(photo);
    offerUndo(text);
  },
  segmentAgain(photo) {
    act.clearWork(photo, `Dropped what you painted on ${photo.name}. The next run segments it.`);
  },
  setNegative(photo, negative) {
    stopWork();
    changes.setNegative(photo, negative);
    redrawn(photo);
    if (negative) goToNextExample();
  },
  confirmSuggestion(photo) {
    changes.confirmSuggestion(photo);
    redrawn(photo);
    goToNextExample();
  },
  makeExample(photo) {
    const next = review.nextOpen(photo);
    changes.makeExample(photo);
    redrawn(photo);
    if (!gallery && next && editor.photo === photo) show(next);
    offerUndo(`${photo.name} is an example now. Segment again to use it.${project.here ? " The server then gets it, as all examples." : ""}`);
  },

  // Results

  /** Accepts a result, or opens it again; then the next one that is not accepted comes onto the stage. */
  accept(photo, accepted) {
    const next = accepted ? review.nextOpen(photo) : null;
    changes.accept(photo, accepted);
    refresh({ photos: true });
    if (!accepted) return;
    if (!next) say(`All ${review.results().length} results are accepted.`, false, { text: "Download", act: () => find("#download").click() });
    if (!next || gallery) return;
    show(next);
  },
  step(by) {
    const next = review.neighbour(model.selectedPhoto(), by);
    if (next) show(next);
    return Boolean(next);
  },
  filter(name) {
    review.view.filter = name;
    refresh();
  },
  showGallery: (shown = !gallery) => showGallery(shown),

  // What the server has done

  began() {
    isUsed = false;
  },
  /** Photos stay on this device until somebody decides otherwise. */
  needsServer(why) {
    const send = () => {
      choose(false);
      refresh();
      run(act);
    };
    say(`${why} No photo was sent.`, true, { text: "Send the photos to the server", act: send });
  },
  segmented(photo) {
    if (editor.photo === photo) editor.tintAll();
  },
  finished(number, failed) {
    const done = number - failed, doubtful = review.results().filter((photo) => !photo.accepted && review.isDoubtful(photo)).length;
    if (!done) return;
    const isFree = !isUsed && !editor.isWorkingOn(editor.photo);
    if (isFree) showGallery(true);
    if (!failed) say(`${done} ${done === 1 ? "photo is" : "photos are"} segmented${doubtful ? `; the model doubts ${doubtful}, shown first` : ""}. Accept what is right, correct the rest.`, false, isFree ? null : { text: "Show them", act: () => showGallery(true) });
  },
  completed(photo, strokes, { box, before, after }) {
    changes.complete(photo, box, before, after, strokes);
    drawPainted(photo);
  },
  suggested(photo) {
    if (editor.photo === photo) editor.tintAll();
    drawThumb(photo, act);
  },
  drawn() {
    refresh();
    editor.draw();
  },
};

function goToNextExample() {
  const next = model.photosOf("example").find((each) => !each.negative && (each.suggested || model.isBlank(each)));
  if (next) show(next);
}

/** The server's work on what is painted now, which a change of it would make worthless. */
function stopWork() {
  stopCompleting();
  stopSuggesting();
}

function drawPainted(photo) {
  if (editor.photo === photo) editor.tintAll();
  drawThumb(photo, act);
  refresh();
}

/** A photo has other labels or facts: draws all that shows it. */
function redrawn(photo) {
  if (editor.photo === photo) {
    editor.drop();
    editor.tintAll();
  }
  refresh({ photos: true });
  suggestFor(model.selectedPhoto(), act);
}

function offerUndo(text) {
  say(text, false, { text: "Undo", act: () => travel(history.undo) });
}

/** Undoes or redoes (`go`) the last step, and shows what it changed. */
export async function travel(go) {
  if (editor.painting || editor.marking) return;
  if (go === history.undo && editor.dropCorner()) return;
  stopWork();
  const before = project.selected, step = go();
  if (!step) return;
  editor.corners = [];
  refreshAll();
  if (step.photo && step.photo !== editor.photo) await act.open(step.photo);
  else if (editor.photo && !project.photos.includes(editor.photo)) await show(null);
  else if (project.selected !== before || (project.selected && !editor.photo)) await show(model.selectedPhoto());
  if (!step.photo) say(`${go === history.undo ? "Undone" : "Done again"}: ${step.text}.`);
  else if (find("#message button.act")) say("");
}

/** Draws what follows from the project, and on demand the lists. */
export function refresh({ classes = false, photos = false } = {}) {
  editor.colours = colours();
  editor.value = project.chosen;
  if (classes) drawClasses(act);
  if (photos) {
    drawPhotos(act);
    editor.tintAll();
  }
  editor.boxes = boxesOf(model.selectedPhoto());
  drawFacts(act);
  drawRun(isRunning());
  drawWork(working);
  drawOptions();
  drawHere();
  drawAdvice(act, isRunning());
  drawGallery(act, gallery);
  drawHint(editor);
  find("#undo").disabled = !history.canUndo() && !editor.corners.length;
  find("#redo").disabled = !history.canRedo();
}

export function refreshAll() {
  refresh({ classes: true, photos: true });
}

/** Boxes of counted objects, at the size of the labels; none once somebody has corrected the mask. */
function boxesOf(photo) {
  if (!project.options.instances || !photo?.result || photo.result.corrected) return [];
  const { found, scale = 1 } = photo.result;
  return found.flatMap(({ objects }) => objects ?? []).map(({ box: [x, y, width, height] }) => [x, y, x + width, y + height].map((value) => value * scale));
}

export function showGallery(shown) {
  if (shown && !review.results().length) return false;
  gallery = shown;
  find("#show-results").setAttribute("aria-pressed", String(shown));
  refresh();
  return true;
}

export async function show(photo) {
  const turn = ++shows, before = model.selectedPhoto();
  project.selected = photo?.id ?? null;
  model.keepFacts();
  if (photo !== editor.photo) stopSuggesting();
  const bitmap = photo && (await model.bitmapOf(photo));
  if (turn !== shows) return bitmap?.close(); // another photo was chosen meanwhile
  editor.colours = colours();
  editor.show(photo, bitmap);
  refresh();
  for (const each of [before, photo]) if (each && project.photos.includes(each)) drawThumb(each, act);
  suggestFor(photo, act);
}

export async function startOver() {
  const any = project.photos.length;
  cancel();
  stopWork();
  dropAdvice();
  changes.startOver();
  showGallery(false);
  gallery = false;
  await show(null);
  refreshAll();
  if (any) offerUndo("All photos, masks and classes are removed from this browser.");
  else say("");
}

/** What the keys of results act on: the card that has the focus, or the result on the stage. */
export function resultInHand() {
  const photo = gallery ? focused() : model.selectedPhoto();
  return photo?.role === "query" && review.results().includes(photo) ? photo : null;
}

export const isGalleryShown = () => gallery;
