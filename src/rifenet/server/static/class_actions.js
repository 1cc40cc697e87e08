// What somebody can do with the classes, and what is missing in them.

import * as changes from "./changes.js";
import { find, say } from "./dom.js";
import { markChosen } from "./panels.js";
import * as model from "./project.js";

const { project } = model;
const looks = new Map(); // id of a class -> its name and colour before somebody began to change them

/** `page` has the editor, refresh(what), refreshAll(), stopWork(), offerUndo(text) and drawHint(). */
export function classActs({ editor, refresh, refreshAll, stopWork, offerUndo, drawHint }) {
  return {
    choose(id) {
      project.chosen = editor.value = id;
      markChosen();
      model.keepFacts();
      editor.draw();
      drawHint();
    },
    rename(id, name) {
      begun(id).name = name;
      find(`[data-class="${id}"]`).removeAttribute("aria-invalid");
      model.keepFacts();
      refresh({ photos: true });
    },
    recolour(id, colour) {
      begun(id).colour = colour;
      model.keepFacts();
      refresh({ photos: true });
    },
    /** A name or a colour is as it shall be. */
    looked(id) {
      const entry = model.classOf(id);
      if (looks.has(id) && entry) changes.lookedAt(entry, looks.get(id));
      looks.delete(id);
      refresh();
    },
    addClass() {
      changes.addClass();
      refresh({ classes: true });
      find(".class.chosen input[type=text]")?.focus();
    },
    removeClass(id) {
      const name = model.nameOf(model.classOf(id)) || "the class", isPainted = model.isPainted(id);
      stopWork();
      changes.removeClass(id);
      refreshAll();
      if (isPainted) offerUndo(`Deleted ${name} and what was painted of it.`);
      find("#add-class").focus({ preventScroll: true });
    },
    /** Something is missing before the server can learn: says so, and shows where. */
    missing({ text, about }) {
      say(text, true);
      const field = about && find(`[data-class="${about}"]`);
      field?.setAttribute("aria-invalid", "true");
      field?.focus();
    },
  };
}

/** A class whose name or colour somebody begins to change. */
function begun(id) {
  const entry = model.classOf(id);
  if (!looks.has(id)) looks.set(id, { name: entry.name, colour: entry.colour });
  return entry;
}
