// Advice on the annotation: which example hurts, and which of the other photos to annotate next.

import { ask, formOf } from "./api.js";
import { element, find, icon, keepingFocus } from "./dom.js";
import { ASKED, lesson, teach, whatIsMissing } from "./jobs.js";
import { Progress, watched } from "./progress.js";
import { isBlank, isByHand, photosOf, project, projectKey, smallJpeg } from "./project.js";

const WARNING = "M12 4 2.500 20h19zM12 10v5M12 17.500v.5", FINE = "m5 12 5 5 9-10";

let running = null; // the controller that cancels, while the server works on advice
let told = null; // { key, shots: [{ photo, className, iou, warns, verdict, reason }], next: [{ photo, rank, reason }] }

/** Asks for advice, and shows it; pressed again, cancels. `act` has open(photo), changed(), progressed(progress), missing(what), say(text, bad). */
export async function advise(act) {
  if (running) return running.abort();
  const missing = whatIsMissing();
  if (missing) return act.missing(missing);
  running = new AbortController();
  const progress = new Progress(() => act.progressed(running && progress));
  act.changed();
  try {
    const key = projectKey(), taught = lesson(), asked = project.here ? [] : candidates(), { signal } = running;
    await teach(taught, signal, progress);
    progress.begin("Checking the examples", 1);
    const form = [["suggest", "5"]];
    for (const photo of asked) form.push(["images", await smallJpeg(photo), photo.name]);
    const answer = await watched(progress, signal, () => ask("/api/advice", { method: "POST", form: formOf(form), signal }));
    const shotOf = ({ class_name, number }) => taught.classes.find((each) => each.name === class_name)?.shots[number - 1]?.photo;
    told = {
      key,
      shots: answer.shots.map((each) => ({ ...each, photo: shotOf(each) })),
      next: answer.next.map((each) => ({ ...each, photo: asked[each.number - 1] })),
    };
    const bad = told.shots.filter((each) => each.warns).length;
    const kept = project.here ? " The other photos stay on this device, so none of them is suggested." : "";
    act.say((bad ? `${bad} of ${told.shots.length} examples should be checked.` : "No example looks wrong.") + kept);
  } catch (error) {
    if (error.name === "AbortError") act.say("Cancelled. Nothing was changed.");
    else act.say(error.message, true);
  } finally {
    running = null;
    act.progressed(null);
    act.changed();
  }
}

/** The button and the lists; `busy` while the page segments. */
export function drawAdvice(act, busy) {
  const button = find("#advise"), examples = photosOf("example").filter((photo) => !photo.suggested && !isBlank(photo)).length;
  button.textContent = running ? "Cancel the check" : "Check the examples";
  button.hidden = !running && !examples;
  button.disabled = !running && busy;
  find("#advice").setAttribute("aria-busy", String(Boolean(running)));
  keepingFocus(() => find("#advice").replaceChildren(...(told ? parts(act) : [])));
}

function parts(act) {
  const here = ({ photo }) => project.photos.includes(photo);
  const shots = told.shots.filter(here), next = told.next.filter((each) => here(each) && each.photo.role === "query");
  const stale = told.key !== projectKey() && element("p", { class: "soft small" }, "The examples have changed since. Check them again.");
  const rows = shots.map((each) => row(act, each, "shot", each.photo.name, `${each.class_name}, IoU ${Math.round(100 * each.iou)} from the others`));
  const order = next.map((each) => row(act, each, "next", `${each.rank}. ${each.photo.name}`, ""));
  return [
    stale || null,
    rows.length && element("ul", { class: "advice", "aria-label": "Examples" }, ...rows),
    order.length && element("h3", {}, "Annotate next"),
    order.length && element("ol", { class: "advice", "aria-label": "Annotate next" }, ...order),
  ].filter(Boolean);
}

function row(act, { photo, reason, number, warns, verdict }, kind, title, figure) {
  const mark = kind === "shot" && element("span", { class: "mark", role: "img", "aria-label": warns ? "Warning" : "In order" }, icon(warns ? WARNING : FINE));
  const lines = [element("b", {}, title), figure && element("span", { class: "soft" }, figure), verdict !== "good" && element("span", {}, reason)];
  const open = element(
    "button", { class: warns ? "advised bad" : "advised", "data-focus": `${kind}-${photo.id}-${number}`, onclick: () => act.open(photo) },
    mark || null, element("span", { class: "about" }, ...lines.filter(Boolean)),
  );
  return element("li", {}, open);
}

/** Queries that nobody has worked on, those first of which the model was least sure. */
function candidates() {
  const sureness = ({ result }) => (result?.found.length ? Math.min(...result.found.map(({ confidence }) => Math.abs(confidence - 0.5))) : 0);
  return photosOf("query").filter((photo) => !isByHand(photo)).sort((a, b) => sureness(a) - sureness(b)).slice(0, ASKED);
}

/** Forgets what was said, with the project. */
export function dropAdvice() {
  running?.abort();
  told = null;
}

/** What the examples' thumbs say of them: a warning, or nothing. */
export const warningOf = (photo) => Boolean(told && told.key === projectKey() && told.shots.some((each) => each.photo === photo && each.warns));
