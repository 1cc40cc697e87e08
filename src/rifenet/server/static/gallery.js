// The gallery: results side by side, large enough to judge, instead of the photo on the stage.

import { element, find, icon, keepingFocus } from "./dom.js";
import { resized, tint, whole } from "./labels.js";
import { chips, colours, stateOf } from "./panels.js";
import { pictureOf } from "./project.js";
import { FILTERS, ORDERS, listed, results, view } from "./review.js";

const SIDE = 560; // px of a picture
const TICK = "m5 12 5 5 9-10", EXAMPLE = "M12 5v14M5 12h14";
const pictures = new WeakMap(); // photo -> its canvas, once it has been in view
let watcher = null;

/** `act` has open(photo), accept(photo, accepted), makeExample(photo), filter(name), order(name). */
export function drawGallery(act, shown) {
  find("#stage").classList.toggle("showing", shown);
  find("#gallery").hidden = !shown;
  if (!shown) return;
  watcher?.disconnect();
  watcher = new IntersectionObserver((entries) => entries.filter((each) => each.isIntersecting).forEach(({ target }) => fill(target)), { root: find("#cards"), rootMargin: "300px" });
  const all = results(), open = all.filter((photo) => !photo.accepted).length;
  keepingFocus(() => {
    find("#filters").replaceChildren(...Object.entries(FILTERS).map(([name, { name: text, fits }]) => {
      const number = all.filter(fits).length;
      return element("button", { "aria-pressed": String(view.filter === name), "data-focus": `filter-${name}`, disabled: !number && view.filter !== name, onclick: () => act.filter(name) }, `${text} `, element("b", {}, String(number)));
    }));
    find("#order").replaceChildren(...Object.entries(ORDERS).map(([name, text]) => element("option", { value: name, selected: view.order === name }, text)));
    find("#tally").textContent = all.length ? (open ? `${all.length - open} of ${all.length} accepted` : `All ${all.length} accepted`) : "No results yet";
    const scrolled = find("#cards").scrollTop;
    find("#cards").replaceChildren(...listed().map((photo) => card(photo, act)));
    find("#cards").scrollTop = scrolled;
  });
}

function card(photo, act) {
  const state = stateOf(photo), known = pictures.get(photo) ?? photo.thumb;
  const canvas = element("canvas", { width: known.width, height: known.height });
  paint(canvas, photo, known);
  const open = element(
    "button", { class: "open", "aria-label": `Look at ${photo.name}, ${state.text}`, "data-focus": `card-${photo.id}`, onclick: () => act.open(photo) },
    canvas, state.kind ? element("span", { class: `badge ${state.kind}` }, state.text) : null,
  );
  const accept = element(
    "button", { class: "icon", "aria-pressed": String(Boolean(photo.accepted)), "aria-label": `Accept ${photo.name}`, title: "Accept (A)", "data-focus": `accept-${photo.id}`, onclick: () => act.accept(photo, !photo.accepted) }, icon(TICK),
  );
  const teach = element("button", { class: "icon", "aria-label": `Use ${photo.name} as an example`, title: "Use as an example (X)", "data-focus": `teach-${photo.id}`, onclick: () => act.makeExample(photo) }, icon(EXAMPLE));
  const made = element(
    "li", { class: `card ${state.kind}`, "data-card": photo.id }, open,
    element("div", { class: "about" }, element("span", { class: "name", title: photo.name }, photo.name), element("span", { class: "chips" }, ...chips(photo, true))),
    element("div", { class: "do" }, accept, teach),
  );
  made.photo = photo;
  watcher.observe(made);
  return made;
}

/** Draws a card that comes into view at full size. */
async function fill(made) {
  const { photo } = made;
  watcher.unobserve(made);
  if (!pictures.has(photo)) pictures.set(photo, await pictureOf(photo, SIDE).catch(() => photo.thumb));
  const canvas = made.querySelector("canvas"), picture = pictures.get(photo);
  [canvas.width, canvas.height] = [picture.width, picture.height];
  paint(canvas, photo, picture);
}

function paint(canvas, photo, picture) {
  const pen = canvas.getContext("2d"), small = resized(photo.labels, canvas.width, canvas.height), layer = new OffscreenCanvas(canvas.width, canvas.height);
  layer.getContext("2d").putImageData(tint(small, whole(small), colours(), 0.45), 0, 0);
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.drawImage(layer, 0, 0);
}

/** Moves the focus between cards by the arrow keys; whether there was a card to move from. */
export function moveFocus(event) {
  const cards = [...document.querySelectorAll("#cards .open")], at = cards.indexOf(document.activeElement);
  if (at < 0) return false;
  const top = (each) => Math.round(each.getBoundingClientRect().top), row = cards.filter((each) => top(each) === top(cards[0])).length; // rows are of equal length
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
  if (!by) return false;
  cards[at + by]?.focus();
  return true;
}

/** The photo whose card has the focus, or null. */
export const focused = () => document.activeElement?.closest?.("[data-card]")?.photo ?? null;
