// Once two examples are marked, the next one comes with what the model already finds in it, to be corrected or accepted.

import { forget } from "./history.js";
import { lesson, predict, teach, whatIsMissing } from "./jobs.js";
import { isBlank, photosOf, project, projectKey, suggest } from "./project.js";

const LEAST = 2; // marked examples
let running = null; // { photo, abort }
const looked = new WeakMap(); // photo -> what the examples were when nothing was found in it

/** The photo that is looked at now, or null. */
export const suggesting = () => running?.photo ?? null;

export function stopSuggesting() {
  running?.abort.abort();
  running = null;
}

const marked = () => photosOf("example").filter((photo) => !photo.suggested && !photo.negative && !isBlank(photo));

function isWanted(photo) {
  if (photo?.role !== "example" || photo.negative || !isBlank(photo) || photo.strokes?.length) return false;
  return marked().length >= LEAST && !whatIsMissing() && looked.get(photo) !== projectKey();
}

/** Looks at a photo where that is worth it. `act` has drawn(), suggested(photo), busyWith(photo). Says nothing of failures: nobody asked for it. */
export async function suggestFor(photo, act) {
  if (running?.photo === photo || !isWanted(photo)) return;
  stopSuggesting();
  const turn = { photo, abort: new AbortController() }, { version } = photo;
  running = turn;
  act.drawn();
  try {
    const taught = lesson();
    await teach(taught, turn.abort.signal);
    const { labels } = await predict(photo, taught, turn.abort.signal);
    if (running !== turn || photo.version !== version || act.busyWith(photo) || !project.photos.includes(photo)) return;
    if (labels.data.some(Boolean)) {
      forget(photo);
      await suggest(photo, { ...labels, data: labels.data.slice() });
      act.suggested(photo);
    } else looked.set(photo, projectKey());
  } catch {
    // the next run says what is wrong
  } finally {
    if (running === turn) running = null;
    act.drawn();
  }
}
