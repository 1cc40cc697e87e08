// The page: fetches what was kept, and wires its buttons, files and keys.

import { act, editor, isGalleryShown, refresh, refreshAll, resultInHand, show, startOver, travel } from "./actions.js";
import { advise } from "./advice.js";
import { keepHere } from "./api.js";
import { archive } from "./archive.js";
import { take } from "./arrivals.js";
import { now, recordSince } from "./changes.js";
import { find, say } from "./dom.js";
import { moveFocus } from "./gallery.js";
import { wireHere } from "./here.js";
import * as history from "./history.js";
import { listen } from "./keys.js";
import { wireOptions } from "./options.js";
import { filesOf } from "./pairing.js";
import { Progress } from "./progress.js";
import * as model from "./project.js";
import { view } from "./review.js";
import { cancel, run } from "./runs.js";
import { addSample } from "./sample.js";
import { claim } from "./store.js";

const { project } = model;
const on = (selector, name, handle) => find(selector).addEventListener(name, handle);

/** Files [{ file, path }] for a list, or null where the page has to find out for which. */
async function add(files, where) {
  if (!files.length) return;
  const progress = new Progress(() => act.progressed(progress));
  progress.begin("Reading files", 1);
  try {
    const { added, masks, problems, notes } = await take(files, where, progress);
    const told = masks ? [`${masks} ${masks === 1 ? "photo has" : "photos have"} a mask from your files.`] : [];
    if (problems.length) say([...told, ...problems, ...notes].join(" "), true);
    else if (told.length || notes.length) say([...told, ...notes].join(" "));
    const first = added.find((photo) => photo.role === "example") ?? added[0];
    refreshAll();
    if (first && (first.role === "example" || !project.selected)) await act.open(first);
    else if (masks) await show(model.selectedPhoto());
  } catch (error) {
    say(error.message, true);
  } finally {
    act.progressed(null);
    refreshAll();
  }
}

async function download() {
  find("#download").disabled = true;
  const progress = new Progress(() => act.progressed(progress));
  try {
    const { blob, problems } = await archive(editor.opacity, progress), link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "rifenet.zip";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    if (problems.length) say(problems.join(" "), true);
  } catch (error) {
    say(`The zip could not be made: ${error.message}`, true);
  }
  act.progressed(null);
}

async function sample(event) {
  event.target.disabled = true;
  const before = now();
  try {
    await addSample();
    recordSince(before, "adding the sample");
    await show(model.photosOf("example")[0]);
    say("Two classes on four examples, and six photos to segment. Press Segment.");
  } catch (error) {
    say(`The sample could not be loaded: ${error.message}`, true);
  }
  event.target.disabled = false;
  refreshAll();
}

function chooseTool(tool) {
  if (isGalleryShown()) act.showGallery(false);
  editor.tool = tool;
  editor.drop();
  find("#canvas").style.cursor = tool === "pan" ? "grab" : "crosshair";
  document.querySelectorAll("[data-tool]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.tool === tool)));
  find("#size-group").hidden = tool !== "brush" && tool !== "eraser";
}

function resizeBrush(value) {
  const field = find("#size");
  field.value = value;
  editor.radius = Number(field.value) / 2;
  editor.draw();
}

function showMasks(shown) {
  find("#shown").checked = editor.shown = shown;
  editor.draw();
}

function wireTools() {
  document.querySelectorAll("[data-tool]").forEach((button) => button.addEventListener("click", () => chooseTool(button.dataset.tool)));
  on("#size", "input", (event) => resizeBrush(event.target.value));
  on("#shown", "change", (event) => showMasks(event.target.checked));
  on("#opacity", "input", (event) => { editor.opacity = event.target.value / 100; editor.tintAll(); });
  on("#undo", "click", () => travel(history.undo));
  on("#redo", "click", () => travel(history.redo));
  on("#zoom-in", "click", () => editor.zoom(1.25));
  on("#zoom-out", "click", () => editor.zoom(0.8));
  on("#zoom-fit", "click", () => editor.fit());
  on("#hint-close", "click", () => editor.close());
  on("#hint-drop", "click", () => editor.drop());
}

function wireWork() {
  on("#add-class", "click", act.addClass);
  on("#segment", "click", () => run(act));
  on("#adapt", "change", (event) => { Object.assign(project, { adapt: event.target.checked, adopted: null }); model.keepFacts(); refresh(); });
  on("#advise", "click", () => advise(act));
  on("#cancel", "click", cancel);
  on("#download", "click", download);
  on("#sample", "click", sample);
  on("#sample-here", "click", sample);
  on("#reset", "click", startOver);
  on("#dismiss", "click", () => say(""));
  for (const button of ["#show-results", "#hide-results"]) on(button, "click", () => act.showGallery());
  on("#order", "change", (event) => { view.order = event.target.value; refresh(); });
  on("#cards", "keydown", (event) => { if (moveFocus(event)) event.preventDefault(); });
  wireOptions(refresh);
  wireHere(refresh);
  keepHere(model.staysHere);
}

/** Files may be chosen, pasted, or dropped anywhere: where the two lists are not hit, the page shows two fields to drop on. */
function wireFiles() {
  for (const [role, plural] of [["example", "examples"], ["query", "queries"]]) {
    on(`#pick-${plural}`, "change", async (event) => {
      const files = [...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
      await add(files, role);
      event.target.value = "";
    });
  }
  const zones = find("#zones");
  const isFiles = (event) => !event.dataTransfer || [...event.dataTransfer.types].includes("Files");
  window.addEventListener("dragenter", (event) => { if (isFiles(event) && !find("main").inert) zones.hidden = false; });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) zones.hidden = true; });
  window.addEventListener("dragover", (event) => {
    event.preventDefault(); // else the page is left
    for (const zone of zones.children) zone.classList.toggle("over", zone === event.target.closest("[data-zone]"));
  });
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    zones.hidden = true;
    if (find("main").inert) return;
    const zone = event.target.closest?.("[data-zone]")?.dataset.zone ?? null;
    await add(await filesOf(event.dataTransfer), zone);
  });
  window.addEventListener("paste", async (event) => {
    if (event.clipboardData.files.length && !find("main").inert) await add(await filesOf(event.clipboardData), null);
  });
}

/** The keys of results, each of which says whether there was one to act on. */
const resultKeys = {
  accept() {
    const photo = resultInHand(), shown = model.selectedPhoto();
    if (photo) act.accept(photo, !photo.accepted);
    else if (shown?.suggested) act.confirmSuggestion(shown);
    return Boolean(photo || shown?.suggested);
  },
  teach() {
    const photo = resultInHand();
    if (photo && !model.isBlank(photo)) act.makeExample(photo);
    return Boolean(photo);
  },
  step: (by) => Boolean(resultInHand()) && act.step(by),
  gallery: () => act.showGallery(),
};

async function start() {
  wireTools();
  wireWork();
  wireFiles();
  listen(editor, {
    choose: chooseTool,
    resize: (step) => resizeBrush(Number(find("#size").value) + step),
    toggle: () => showMasks(!editor.shown),
    undo: () => travel(history.undo),
    redo: () => travel(history.redo),
    ...resultKeys,
  });
  model.onStoreProblem(() => say("This browser cannot keep your work: its storage is full or switched off. Download it before you leave.", true));
  const lost = await model.restore().catch(() => say("This browser keeps nothing for pages, so your work will not survive a reload.", true));
  if (!project.classes.length) model.addClass();
  resizeBrush(find("#size").value);
  chooseTool("object");
  if (lost?.length) say(`This browser kept ${lost.join(", ")}, but cannot open ${lost.length > 1 ? "them" : "it"} any more.`, true);
  refreshAll();
  await show(model.selectedPhoto());
}

/** Another tab has the project: this one shows nothing that could be changed. */
function stayOut() {
  for (const part of document.querySelectorAll("header.bar, main")) part.inert = true;
  say("The project is open in another tab of this browser. Go on there, or close it and load this page again.", true);
}

await ((await claim()) ? start() : stayOut());
document.documentElement.dataset.ready = "true";
