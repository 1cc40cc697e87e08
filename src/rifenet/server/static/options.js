// Options of a run and of the zip: what the command line has as flags. Scale and edges are chosen by the examples unless told.

import { find } from "./dom.js";
import { keepFacts, OPTIONS, project } from "./project.js";

const CHOICES = { tiles: "value", refine: "value", instances: "checked", clean: "checked", keepAbsent: "checked", adopt: "value" };
const field = (name) => find(`[data-option="${name}"]`);

/** `changed` is called after each change. */
export function wireOptions(changed) {
  for (const [name, kind] of Object.entries(CHOICES)) {
    field(name).addEventListener("change", ({ target }) => {
      const value = name === "adopt" ? Math.min(20, Math.max(1, Math.round(Number(target.value)) || OPTIONS.adopt)) : target[kind];
      set({ [name]: value }, changed);
    });
  }
  for (const box of boxes()) box.addEventListener("change", () => set({ formats: boxes().filter((each) => each.checked).map((each) => each.value) }, changed));
  const panel = find("#formats"), button = find("#formats-button");
  button.addEventListener("click", () => panel.showModal());
  find("#formats-download").addEventListener("click", () => { panel.close(); find("#download").click(); });
  panel.addEventListener("click", (event) => event.target === panel && panel.close());
}

const boxes = () => [...document.querySelectorAll("#formats input[type=checkbox]")];

function set(options, changed) {
  project.options = { ...project.options, ...options };
  keepFacts();
  changed();
}

export function drawOptions() {
  for (const [name, kind] of Object.entries(CHOICES)) {
    if (document.activeElement !== field(name)) field(name)[kind] = project.options[name];
  }
  for (const box of boxes()) box.checked = project.options.formats.includes(box.value);
  const own = Object.keys(CHOICES).filter((name) => project.options[name] !== OPTIONS[name]).length;
  find("#options summary span").textContent = own ? ` (${own} changed)` : "";
  find("#formats-download").disabled = find("#download").disabled || !project.options.formats.length;
}
