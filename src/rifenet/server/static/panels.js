// The lists beside the stage and the line below it, drawn from the project.

import { warningOf } from "./advice.js";
import { element, find, icon, keepingFocus, rgb } from "./dom.js";
import { resized, tint, whole } from "./labels.js";
import { classOf, isBlank, isByHand, nameOf, photosOf, pixels, project, selectedPhoto, toSegment } from "./project.js";

const CROSS = "M6 6l12 12M18 6 6 18";

/** Rows of classes; `act` has choose(id), rename(id, name), recolour(id, colour), removeClass(id). */
export function drawClasses(act) {
  const rows = project.classes.map((each, index) => {
    const name = nameOf(each) || `class ${index + 1}`;
    const choose = element("input", { type: "radio", name: "class", "aria-label": `Paint ${name}`, "data-focus": `paint-${each.id}`, onchange: () => act.choose(each.id) });
    choose.checked = each.id === project.chosen;
    const text = element("input", {
      type: "text", value: each.name, placeholder: "Name, e.g. dog", maxlength: 60, "aria-label": `Name of class ${index + 1}`, "data-class": each.id, "data-focus": `name-${each.id}`,
      oninput: (event) => act.rename(each.id, event.target.value), onfocus: () => act.choose(each.id),
    });
    const colour = element("input", { type: "color", value: each.colour, "aria-label": `Colour of ${name}`, "data-focus": `colour-${each.id}`, oninput: (event) => act.recolour(each.id, event.target.value) });
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
  return element("li", { class: `thumb ${photo.status}`, "data-photo": photo.id }, open, remove);
}

function noteOf(photo) {
  const painted = project.classes.filter((each) => pixels(photo)[each.id]).map((each) => nameOf(each) || "unnamed");
  if (photo.role === "example") return `${warningOf(photo) ? "⚠ check: " : ""}${painted.join(", ") || "not painted"}`;
  if (photo.status === "running") return "working…";
  if (photo.status === "error") return "failed";
  if (!photo.result) return isBlank(photo) ? "waiting" : "painted";
  if (photo.result.corrected) return "corrected";
  const found = photo.result.found.filter((each) => each.present && classOf(each.id)).sort((a, b) => b.confidence - a.confidence);
  return found.map((each) => `${nameOf(classOf(each.id))} ${percent(each.confidence)}`).join(", ") || "nothing found";
}

/** What the line below the stage says of the selected photo; `act` has makeExample(photo), segmentAgain(photo). */
export function drawFacts(act) {
  const photo = selectedPhoto();
  if (!photo) {
    find("#facts").replaceChildren(element("span", { class: "soft" }, project.photos.length ? "Choose a photo to see it here." : "No photo yet."));
    return;
  }
  const parts = [element("span", { class: "name" }, photo.name)];
  if (photo.status === "error") parts.push(element("span", { class: "soft" }, photo.error));
  for (const { id, present, confidence } of photo.result?.found ?? []) {
    if (!classOf(id)) continue;
    const swatch = element("i");
    swatch.style.background = classOf(id).colour;
    const how = present ? percent(confidence) : `absent (${percent(confidence)})`;
    parts.push(element("span", { class: present ? "chip" : "chip absent" }, swatch, `${nameOf(classOf(id))} ${how}`));
  }
  if (photo.role === "query" && !isBlank(photo)) {
    const add = element("button", { id: "make-example", "data-focus": "make-example", title: "Correct the mask with the tools above, then teach it", onclick: () => act.makeExample(photo) }, "Use as an example");
    const again = isByHand(photo) && element("button", { id: "segment-again", "data-focus": "segment-again", title: "Drop what was painted here", onclick: () => act.segmentAgain(photo) }, "Segment again");
    parts.push(element("span", { class: "push" }, again || null, add));
  } else if (photo.role === "example" && !project.classes.some((each) => pixels(photo)[each.id])) {
    parts.push(element("span", { class: "soft" }, "Paint the object: all of it, and nothing else."));
  }
  keepingFocus(() => find("#facts").replaceChildren(...parts));
}

/** Buttons that depend on the project. `running` is the number done and the total, or null. */
export function drawRun(running) {
  const todo = toSegment().length, queries = photosOf("query").length;
  const button = find("#segment"), progress = find("#progress");
  button.textContent = running ? `Segmenting ${Math.min(running.done + 1, running.total)} of ${running.total}…` : queries && !todo ? "Up to date" : `Segment ${todo || ""} ${todo === 1 ? "photo" : "photos"}`.replace("  ", " ");
  button.disabled = Boolean(running) || !todo;
  find("#cancel").hidden = !running;
  Object.assign(find("#adapt"), { checked: project.adapt, disabled: Boolean(running) });
  progress.hidden = !running;
  if (running) Object.assign(progress, { max: running.total, value: running.done });
  find("#download").disabled = !project.photos.some((photo) => photo.result || !isBlank(photo));
  find("#sample").hidden = project.photos.length === 0;
  find("#empty").hidden = Boolean(selectedPhoto());
  find("#sample-here").hidden = project.photos.length > 0;
}

export const colours = () => Object.fromEntries([...project.classes.map((each) => [each.id, rgb(each.colour)]), [255, [160, 160, 160]]]);
const percent = (share) => `${Math.round(100 * share)} %`;
