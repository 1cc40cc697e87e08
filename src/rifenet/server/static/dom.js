// Small helpers over the document.

export const find = (selector) => document.querySelector(selector);

/** An element with properties (`class`, `on...`, `aria-...`, any attribute) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Draws parts of the page anew, and gives the focus back to the part that had it, by its `data-focus`. */
export function keepingFocus(draw) {
  const name = document.activeElement?.dataset.focus;
  draw();
  if (name && document.activeElement?.dataset.focus !== name) find(`[data-focus="${name}"]`)?.focus({ preventScroll: true });
}

/** An icon of strokes. */
export function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  const strokes = document.createElementNS("http://www.w3.org/2000/svg", "path");
  strokes.setAttribute("d", path);
  svg.append(strokes);
  return svg;
}

let timer = 0;

/** Says something to the user: problems stay until dismissed, news goes by itself. `action` is a { text, act } for a button. */
export function say(text, bad = false, action = null) {
  const message = find("#message");
  message.classList.toggle("bad", bad);
  message.querySelector("span").textContent = text;
  const press = (chosen) => () => {
    say("");
    chosen.act();
  };
  find("#message-act").replaceChildren(...(action && text ? [element("button", { class: "act", onclick: press(action) }, action.text)] : []));
  clearTimeout(timer);
  if (text && !bad) timer = setTimeout(() => say(""), action ? 12000 : 7000);
}

/** `bytes` of base64. */
export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** [r, g, b] of #rrggbb. */
export const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
