// The lists beside the stage and the line below it, drawn from the project.

import { warningOf } from "./advice.js";
import { element, find, icon, keepingFocus, rgb } from "./dom.js";
import { resized, tint, whole } from "./labels.js";
import { classOf, isBlank, isByHand, nameOf, photosOf, pixels, project, selectedPhoto, toSegment } from "./project.js";
import { isDoubtful, listed, results } from "./review.js";
import { completing } from "./strokes.js";
import { suggesting } from "./suggest.js";

const CROSS = "M6 6l12 12M18 6 6 18";

/** Rows of classes; `act` has choose(id), rename(id, name), recolour(id, colour), looked(id), removeClass(id). */
export function drawClasses(act) {
  const rows = project.classes.map((each, index) => {
    const name = nameOf(each) || `class ${index + 1}`;
    const choose = element("input", { type: "radio", name: "class", "aria-label": `Paint ${name}`, "data-focus": `paint-${each.id}`, onchange: () => act.choose(each.id) });
    choose.checked = each.id === project.chosen;
    const text = element("input", {
      type: "text", value: each.name, placeholder: "Name, e.g. dog", maxlength: 60, "aria-label": `Name of class ${index + 1}`, "data-class": each.id, "data-focus": `name-${each.id}`,
      oninput: (event) => act.rename(each.id, event.target.value), onchange: () => act.looked(each.id), onfocus: () => act.choose(each.id),
    });
    const colour = element("input", { type: "color", value: each.colour, "aria-label": `Colour of ${name}`, "data-focus": `colour-${each.id}`, oninput: (event) => act.recolour(each.id, event.target.value), onchange: () => act.looked(each.id) });
    const remove = element("button", { class: "plain icon", "aria-label": `Delete ${name}`, "data-focus": `delete-${each.id}`, title: "Delete", onclick: () => act.removeClass(each.id) }, icon(CROSS));
    return element("div", { class: each.id === project.chosen ? "class chosen" : "class" }, choose, colour, text, remove);
  });
  keepingFocus(() => find("#class-list").replaceChildren(...rows));
}

/** Marks the chosen class without building the rows again, which would take the focus from a name. */
export function markChosen() {
  find("#class-list").querySelectorAll(".class").forEach((row, index) => {
    const chosen = project.classes[index]?.id === project.chosen;
    row.classList.toggle("chosen", chosen);
    row.querySelector("input[type=radio]").checked = chosen;
  });
}

/** Both lists of photos; `act` has open(photo), removePhoto(photo). */
export function drawPhotos(act) {
  keepingFocus(() => {
    for (const role of ["example", "query"]) find(`#${role}-list`).replaceChildren(...photosOf(role).map((photo) => thumb(photo, act)));
  });
}

export function drawThumb(photo, act) {
  keepingFocus(() => find(`[data-photo="${photo.id}"]`)?.replaceWith(thumb(photo, act)));
}

function thumb(photo, act) {
  const canvas = element("canvas", { width: photo.thumb.width, height: photo.thumb.height });
  const pen = canvas.getContext("2d"), small = resized(photo.labels, canvas.width, canvas.height);
  const layer = element("canvas", { width: canvas.width, height: canvas.height });
  layer.getContext("2d").putImageData(tint(small, whole(small), colours(), 0.5), 0, 0);
  pen.drawImage(photo.thumb, 0, 0);
  pen.drawImage(layer, 0, 0);
  const note = noteOf(photo), current = photo.id === project.selected;
  const open = element(
    "button", { "aria-current": String(current), "aria-label": `${photo.name}: ${note}`, "data-focus": `open-${photo.id}`, title: photo.error || photo.name, onclick: () => act.open(photo) },
    canvas, element("span", { class: photo.status === "error" || warningOf(photo) ? "note bad" : "note soft" }, note),
  );
  const remove = element("button", { class: "remove", "aria-label": `Remove ${photo.name}`, "data-focus": `remove-${photo.id}`, title: "Remove", onclick: () => act.removePhoto(photo) }, icon(CROSS));
  return element("li", { class: `thumb ${photo.status}${photo.suggested ? " suggested" : ""}`, "data-photo": photo.id }, open, remove);
}

function noteOf(photo) {
  const painted = project.classes.filter((each) => pixels(photo)[each.id]).map((each) => nameOf(each) || "unnamed");
  if (photo.role === "example") return `${warningOf(photo) ? "⚠ check: " : ""}${exampleNote(photo, painted)}`;
  if (photo.status === "running") return "working…";
  if (photo.status === "error") return "failed";
  if (photo.accepted) return "accepted";
  if (!photo.result) return isBlank(photo) ? "waiting" : "painted";
  if (photo.result.corrected) return "corrected";
  const found = present(photo).sort((a, b) => b.confidence - a.confidence);
  return found.map((each) => `${nameOf(classOf(each.id))} ${percent(each.confidence)}`).join(", ") || "nothing found";
}

function exampleNote(photo, painted) {
  if (photo.negative) return "shows none";
  if (photo.suggested) return "suggested";
  return painted.join(", ") || "not marked";
}

const present = ({ result }) => (result?.found ?? []).filter((each) => each.present && classOf(each.id));

/** What somebody should know of a result at first sight: { kind, text }. */
export function stateOf(photo) {
  if (photo.status === "error") return { kind: "bad", text: "failed" };
  if (photo.accepted) return { kind: "accepted", text: "accepted" };
  if (!photo.result || photo.result.corrected) return { kind: "corrected", text: photo.result ? "corrected" : "painted" };
  if (isDoubtful(photo)) return { kind: "doubtful", text: "doubtful" };
  return isBlank(photo) ? { kind: "absent", text: "nothing found" } : { kind: "", text: "found" };
}

/** What the server says of each class in a photo, or of those only that are `there`. */
export function chips(photo, there = false) {
  const told = (photo.result?.found ?? []).filter(({ id, present }) => classOf(id) && (present || !there));
  return told.map(({ id, present, confidence, quality, objects }) => {
    const swatch = element("i"), count = project.options.instances && objects?.length && !photo.result.corrected ? ` × ${objects.length},` : "";
    swatch.style.background = classOf(id).colour;
    const how = present ? percent(confidence) : `absent (${percent(confidence)})`, good = present && quality !== null && quality !== undefined ? `, quality ${percent(quality)}` : "";
    return element("span", { class: present ? "chip" : "chip absent", title: present ? "How sure the model is that the photo shows it" : "The model sees none of it" }, swatch, `${nameOf(classOf(id))}${count} ${how}${good}`);
  });
}

/**
 * The line below the stage, of the selected photo. `act` has makeExample, segmentAgain, accept, setNegative, confirmSuggestion
 * and step, each of a photo.
 */
export function drawFacts(act) {
  const photo = selectedPhoto();
  if (!photo) {
    find("#facts").replaceChildren(element("span", { class: "soft" }, project.photos.length ? "Choose a photo to see it here." : "No photo yet."));
    return;
  }
  const parts = [element("span", { class: "name" }, photo.name)];
  if (photo.status === "error") parts.push(element("span", { class: "soft" }, photo.error));
  parts.push(...chips(photo));
  parts.push(...(photo.role === "query" ? ofResult(photo, act) : ofExample(photo, act)));
  keepingFocus(() => find("#facts").replaceChildren(...parts.filter(Boolean)));
}

const button = (id, title, act, ...inside) => element("button", { id, "data-focus": id, title, onclick: act }, ...inside);

function ofExample(photo, act) {
  if (completing() === photo) return [element("span", { class: "soft working" }, "Finding the object…")];
  if (suggesting() === photo) return [element("span", { class: "soft working" }, "Looking for what you marked before…")];
  if (photo.suggested) return [
    element("span", { class: "soft" }, "Found by your other examples: correct it, or accept it."),
    element("span", { class: "push" }, button("clear", "Drop the suggestion", () => act.clearWork(photo), "Drop"), primary(button("confirm", "It is right (A)", () => act.confirmSuggestion(photo), "Accept"))),
  ];
  if (photo.negative) return [element("span", { class: "soft" }, "Shows none of the classes, and teaches that."), element("span", { class: "push" }, button("negative", "", () => act.setNegative(photo, false), "Mark it after all"))];
  if (!isBlank(photo)) return [element("span", { class: "push" }, button("clear", "Drop what is marked here", () => act.clearWork(photo), "Clear"))];
  return [element("span", { class: "soft" }, "Draw a line over the object."), element("span", { class: "push" }, button("negative", "A photo of other things teaches what not to find", () => act.setNegative(photo, true), "Shows none of the classes"))];
}

const primary = (made) => (made.classList.add("primary"), made);

function ofResult(photo, act) {
  const all = listed(), index = all.indexOf(photo), isResult = results().includes(photo);
  const working = completing() === photo && element("span", { class: "soft working" }, "Finding the object…");
  const walk = isResult && all.length > 1 && element(
    "span", { class: "walk" },
    Object.assign(button("previous", "Previous result (Page up)", () => act.step(-1), icon("m14 6-6 6 6 6")), { ariaLabel: "Previous result", disabled: index <= 0 }),
    element("span", { class: "soft" }, index < 0 ? `${all.length}` : `${index + 1} of ${all.length}`),
    Object.assign(button("next", "Next result (N)", () => act.step(1), icon("m10 6 6 6-6 6")), { ariaLabel: "Next result", disabled: index >= all.length - 1 }),
  );
  const again = isByHand(photo) && !photo.accepted && button("segment-again", "Drop what was painted here", () => act.segmentAgain(photo), "Segment again");
  const teach = !isBlank(photo) && button("make-example", "Correct the mask with strokes, then teach it (X)", () => act.makeExample(photo), "Use as an example");
  const accept = isResult && button("accept", "The mask is right (A)", () => act.accept(photo, !photo.accepted), photo.accepted ? "Accepted ✓" : "Accept");
  if (accept) accept.setAttribute("aria-pressed", String(photo.accepted));
  if (accept && !photo.accepted) primary(accept);
  return [working, element("span", { class: "push" }, ...[walk, again, teach, accept].filter(Boolean))];
}

/** What to do with the tool in hand, over the photo; how to close an open polygon. */
export function drawHint(editor) {
  const { photo, tool, corners } = editor, open = corners.length > 0, place = find("#hint");
  find("#hint-close").hidden = corners.length < 3;
  find("#hint-drop").hidden = !open;
  place.hidden = !photo || (!open && !hintOf(photo, tool));
  place.querySelector("span").textContent = open ? polygonHint(corners.length) : hintOf(photo, tool);
}

function polygonHint(number) {
  if (number < 3) return `Click the next corner (${number} so far, at least 3).`;
  return "To close it, click the first corner, double-click, or press Enter.";
}

function hintOf(photo, tool) {
  if (!photo) return "";
  if (!project.chosen) return "Choose a class first.";
  if (tool === "polygon") return "Click the corners around the object.";
  if (tool === "background") return "Draw over what is not the object.";
  const fresh = tool === "object" && isBlank(photo) && !photo.negative && photo.role === "example";
  return fresh ? `Draw a line over the ${nameOf(classOf(project.chosen)) || "object"}. Its mask follows.` : "";
}

/** Buttons that depend on the project; `running` says whether a run is under way. */
export function drawRun(running) {
  const todo = toSegment().length, queries = photosOf("query").length, found = results().length;
  const run = find("#segment"), upToDate = queries && !todo;
  run.textContent = running ? "Segmenting…" : upToDate ? "Up to date" : `Segment ${todo || ""} ${todo === 1 ? "photo" : "photos"}`.replace("  ", " ");
  run.disabled = Boolean(running) || !todo;
  find("#cancel").hidden = !running;
  Object.assign(find("#adapt"), { checked: project.adapt, disabled: Boolean(running) });
  find("#download").disabled = find("#formats-button").disabled = !project.photos.some((photo) => photo.result || !isBlank(photo));
  find("#show-results").disabled = !found;
  find("#show-results b").textContent = found || "";
  find("#sample").hidden = project.photos.length === 0;
  find("#empty").hidden = Boolean(selectedPhoto());
  find("#sample-here").hidden = project.photos.length > 0;
}

/** The line of what is under way at the bottom of the page; `progress` is null while nothing is. */
export function drawWork(progress) {
  find("#work").hidden = !progress;
  if (!progress) return;
  find("#work span").textContent = progress.text;
  const bar = find("#progress");
  if (progress.total > 1) Object.assign(bar, { max: progress.total, value: progress.done });
  else bar.removeAttribute("value");
}

export const colours = () => Object.fromEntries([...project.classes.map((each) => [each.id, rgb(each.colour)]), [255, [160, 160, 160]]]);
const percent = (share) => `${Math.round(100 * share)} %`;
