// What can be undone, the newest last: strokes, and every change of the project.
//
// A step is { text, photo, undo(), redo() }; `photo` is the one that it paints on, or null. Steps are undone in order, so a
// step may count on finding the project as it left it; only results of the server come in between (`forget`).

const MOST = 100;
const past = [], future = [];

export function record(step) {
  past.push(step);
  if (past.length > MOST) past.shift();
  future.length = 0;
}

export const canUndo = () => past.length > 0;
export const canRedo = () => future.length > 0;

/** Undoes the last step, and returns it; null where there is none. */
export const undo = () => move(past, future, "undo");
export const redo = () => move(future, past, "redo");

function move(from, to, act) {
  const step = from.pop();
  if (!step) return null;
  step[act]();
  to.push(step);
  return step;
}

/** Drops the strokes on a photo whose labels the server has replaced. */
export function forget(photo) {
  for (const steps of [past, future]) steps.splice(0, steps.length, ...steps.filter((step) => step.photo !== photo));
}

/** Number of steps on a photo that can be undone. */
export const strokesOn = (photo) => past.filter((step) => step.photo === photo).length;
