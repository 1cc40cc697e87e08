// A run: learns the examples as they are, then segments the photos that wait, one by one.

import { takeWarnings } from "./api.js";
import { NotHere, prepare, whyServer } from "./here.js";
import { lesson, segment, teach, teachAll, whatIsMissing } from "./jobs.js";
import { Progress } from "./progress.js";
import * as model from "./project.js";

const { project } = model;
let abort = null; // of the run that is under way

export const isRunning = () => abort !== null;
export const cancel = () => abort?.abort();

/**
 * Segments what waits. `act` has say(text, bad), missing(what), needsServer(why), began(), progressed(progress or null), drawThumb(photo), busyWith(photo),
 * segmented(photo) and finished(number, failed).
 */
export async function run(act) {
  const missing = whatIsMissing();
  if (missing) return act.missing(missing);
  const why = project.here && whyServer(project);
  if (why) return act.needsServer(why);
  act.say("");
  takeWarnings();
  act.began();
  abort = new AbortController();
  const { signal } = abort, todo = model.toSegment();
  const progress = new Progress(() => act.progressed(isRunning() ? progress : null));
  let taught = lesson(), refused = "";
  progress.begin("Learning the examples", 1);
  try {
    await teachAll(taught, signal, progress).catch(async (error) => {
      if (!taught.adapt || !error.status) throw error; // cancelled, or no server
      refused = `The photos could not teach: ${error.message} They are segmented by the examples alone.`;
      Object.assign(project, { adapt: false, adopted: null });
      taught = lesson();
      await teach(taught, signal, progress);
    });
    if (project.here) await prepare(signal, progress);
    progress.begin("Segmenting", todo.length);
    for (const photo of todo) {
      if (model.waits(photo, taught.key) && !act.busyWith(photo)) await runOne(photo, taught, act, signal);
      progress.step();
    }
    const failed = todo.filter((photo) => photo.status === "error").length;
    abort = null;
    act.finished(todo.length, failed);
    const told = [refused, failed ? `${failed} of ${todo.length} photos failed. Choose one to see why.` : "", ...takeWarnings()];
    if (told.some(Boolean)) act.say(told.filter(Boolean).join(" "), true);
  } catch (error) {
    if (error.name === "AbortError") act.say("Cancelled. What was segmented stays.");
    else if (error instanceof NotHere) act.needsServer(error.message);
    else act.say(error.message, true);
  } finally {
    abort = null;
    act.progressed(null);
  }
}

/** Segments a photo. A refusal is kept as its error; only a cancel, or a server that does not answer, is thrown. */
async function runOne(photo, taught, act, signal) {
  photo.status = "running";
  act.drawThumb(photo);
  try {
    if (await segment(photo, taught, act.busyWith, signal)) act.segmented(photo);
  } catch (error) {
    if (error.name === "AbortError" || !error.status) throw error;
    if (model.waits(photo, taught.key)) Object.assign(photo, { status: "error", error: error.message });
    await model.keep(photo);
  } finally {
    if (photo.status === "running") photo.status = photo.result ? "done" : "new";
    act.drawThumb(photo);
  }
}
