// The page: wires the project, the stage, the lists and the jobs.

import { advise, drawAdvice, dropAdvice } from "./advice.js";
import { takeWarnings } from "./api.js";
import { archive } from "./archive.js";
import { find, say } from "./dom.js";
import { Editor } from "./editor.js";
import { lesson, segment, teach, teachAll, whatIsMissing } from "./jobs.js";
import { listen } from "./keys.js";
import { colours, drawClasses, drawFacts, drawPhotos, drawRun, drawThumb, markChosen } from "./panels.js";
import * as model from "./project.js";
import { addSample } from "./sample.js";
import { claim } from "./store.js";

const { project } = model;
const editor = new Editor(find("#canvas"), painted);
const PLURAL = { example: "examples", query: "queries" };
let running = null; // { done, total, abort } while the server works for this page

const act = {
  say,
  changed: () => refresh({ photos: true }),
  choose(id) {
    project.chosen = editor.value = id;
    markChosen();
    model.keepFacts();
  },
  rename(id, name) {
    model.classOf(id).name = name;
    find(`[data-class="${id}"]`).removeAttribute("aria-invalid");
    model.keepFacts();
    refresh({ photos: true });
  },
  recolour(id, colour) {
    model.classOf(id).colour = colour;
    model.keepFacts();
    refresh({ photos: true });
  },
  removeClass(id) {
    const name = model.nameOf(model.classOf(id));
    if (model.shotsOf(id).length && !confirm(`Delete ${name || "this class"} and what is painted of it?`)) return;
    model.removeClass(id);
    if (!project.classes.length) model.addClass();
    show(model.selectedPhoto());
    refresh({ classes: true, photos: true });
    find("#add-class").focus({ preventScroll: true });
  },
  open(photo) {
    show(photo);
    if (matchMedia("(max-width: 860px)").matches) find("#stage").scrollIntoView({ block: "start" });
  },
  async removePhoto(photo) {
    const selected = project.selected === photo.id;
    const others = model.photosOf(photo.role), index = others.indexOf(photo), next = others[index + 1] ?? others[index - 1];
    await model.removePhoto(photo);
    if (selected) await show(null);
    refresh({ photos: true });
    find(next ? `[data-focus="remove-${next.id}"]` : `#pick-${PLURAL[photo.role]}`).focus({ preventScroll: true });
  },
  async segmentAgain(photo) {
    if (!confirm(`Drop what you painted on ${photo.name}, and have it segmented again?`)) return;
    await model.clearWork(photo);
    if (editor.photo === photo) editor.drop();
    refresh({ photos: true });
  },
  async makeExample(photo) {
    await model.makeExample(photo);
    say(`${photo.name} is an example now. Segment again to use it.`);
    refresh({ photos: true });
  },
};

/** Draws what follows from the project, and on demand the lists. */
function refresh({ classes = false, photos = false } = {}) {
  editor.colours = colours();
  editor.value = project.chosen;
  if (classes) drawClasses(act);
  if (photos) {
    drawPhotos(act);
    editor.tintAll();
  }
  drawFacts(act);
  drawRun(running);
  drawAdvice(act, Boolean(running));
  const history = model.selectedPhoto()?.history;
  find("#undo").disabled = !history?.undo.length;
  find("#redo").disabled = !history?.redo.length;
}

function painted(photo) {
  model.touch(photo);
  drawThumb(photo, act);
  refresh();
}

let shows = 0;

async function show(photo) {
  const turn = ++shows, before = model.selectedPhoto();
  project.selected = photo?.id ?? null;
  model.keepFacts();
  const bitmap = photo && (await model.bitmapOf(photo));
  if (turn !== shows) return bitmap?.close(); // another photo was chosen meanwhile
  editor.colours = colours();
  editor.show(photo, bitmap);
  refresh();
  for (const each of [before, photo]) if (each && project.photos.includes(each)) drawThumb(each, act);
}

async function add(files, role) {
  const problems = [];
  let first = null;
  for (const file of files) {
    try {
      first ??= await model.addPhoto(file, file.name, role);
      if (first.blob !== file) await model.addPhoto(file, file.name, role);
    } catch (error) {
      problems.push(error.message);
    }
  }
  if (problems.length) say(problems.join(" "), true);
  refresh({ photos: true });
  if (first && (role === "example" || !project.selected)) await show(first);
}

async function run() {
  const missing = whatIsMissing();
  if (missing) {
    say(missing.text, true);
    const field = missing.about && find(`[data-class="${missing.about}"]`);
    field?.setAttribute("aria-invalid", "true");
    field?.focus();
    return;
  }
  say("");
  takeWarnings();
  const abort = new AbortController(), todo = model.toSegment();
  let taught = lesson(), refused = "";
  running = { done: 0, total: todo.length, abort };
  refresh();
  try {
    await teachAll(taught, abort.signal).catch(async (error) => {
      if (!taught.adapt || !error.status) throw error; // cancelled, or no server
      refused = `The photos could not teach: ${error.message} They are segmented by the examples alone. `;
      Object.assign(project, { adapt: false, adopted: null });
      taught = lesson();
      await teach(taught, abort.signal);
    });
    for (const photo of todo) {
      if (model.waits(photo, taught.key) && !editor.isWorkingOn(photo)) await runOne(photo, taught, abort.signal);
      running.done++;
      refresh();
    }
    const failed = todo.filter((photo) => photo.status === "error").length;
    const told = [refused, failed ? `${failed} of ${todo.length} photos failed. Choose one to see why.` : "", ...takeWarnings()];
    if (told.some(Boolean)) say(told.filter(Boolean).join(" "), true);
  } catch (error) {
    if (error.name === "AbortError") say("Cancelled. What was segmented stays.");
    else say(error.message, true);
  } finally {
    running = null;
    refresh();
  }
}

/** Segments a photo. A refusal is kept as its error; only a cancel, or a server that does not answer, is thrown. */
async function runOne(photo, taught, signal) {
  photo.status = "running";
  drawThumb(photo, act);
  try {
    const fresh = await segment(photo, taught, (each) => editor.isWorkingOn(each), signal);
    if (fresh && editor.photo === photo) editor.tintAll();
  } catch (error) {
    if (error.name === "AbortError" || !error.status) throw error;
    if (model.waits(photo, taught.key)) Object.assign(photo, { status: "error", error: error.message });
    await model.keep(photo);
  } finally {
    if (photo.status === "running") photo.status = photo.result ? "done" : "new";
    drawThumb(photo, act);
  }
}

async function download() {
  find("#download").disabled = true;
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await archive(editor.opacity));
    link.download = "rifenet.zip";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    say(`The zip could not be made: ${error.message}`, true);
  }
  refresh();
}

async function sample(event) {
  event.target.disabled = true;
  try {
    await addSample();
    await show(model.photosOf("example")[0]);
    say("Two classes on four examples, and six photos to segment. Press Segment.");
  } catch (error) {
    say(`The sample could not be loaded: ${error.message}`, true);
  }
  event.target.disabled = false;
  refresh({ classes: true, photos: true });
}

async function startOver() {
  if (project.photos.length && !confirm("Remove all photos, masks and classes from this browser?")) return;
  running?.abort.abort();
  dropAdvice();
  await model.startOver();
  model.addClass();
  await show(null);
  say("");
  refresh({ classes: true, photos: true });
}

function chooseTool(tool) {
  editor.tool = tool;
  editor.drop();
  find("#canvas").style.cursor = tool === "pan" ? "grab" : "crosshair";
  document.querySelectorAll("[data-tool]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.tool === tool)));
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

function wire() {
  const on = (selector, name, handle) => find(selector).addEventListener(name, handle);
  document.querySelectorAll("[data-tool]").forEach((button) => button.addEventListener("click", () => chooseTool(button.dataset.tool)));
  on("#size", "input", (event) => resizeBrush(event.target.value));
  on("#shown", "change", (event) => showMasks(event.target.checked));
  on("#opacity", "input", (event) => { editor.opacity = event.target.value / 100; editor.tintAll(); });
  on("#undo", "click", () => { editor.undo(); refresh(); });
  on("#redo", "click", () => { editor.redo(); refresh(); });
  on("#zoom-in", "click", () => editor.zoom(1.25));
  on("#zoom-out", "click", () => editor.zoom(0.8));
  on("#zoom-fit", "click", () => editor.fit());
  on("#add-class", "click", () => { model.addClass(); refresh({ classes: true }); find(".class.chosen input[type=text]")?.focus(); });
  on("#segment", "click", run);
  on("#adapt", "change", (event) => { Object.assign(project, { adapt: event.target.checked, adopted: null }); model.keepFacts(); refresh(); });
  on("#advise", "click", () => advise(act));
  on("#cancel", "click", () => running?.abort.abort());
  on("#download", "click", download);
  on("#sample", "click", sample);
  on("#sample-here", "click", sample);
  on("#reset", "click", startOver);
  on("#dismiss", "click", () => say(""));
  for (const role of ["example", "query"]) {
    const plural = PLURAL[role], panel = find(`#${plural}`);
    on(`#pick-${plural}`, "change", async (event) => { await add([...event.target.files], role); event.target.value = ""; });
    panel.addEventListener("dragover", () => panel.classList.add("over"));
    panel.addEventListener("dragleave", () => panel.classList.remove("over"));
    panel.addEventListener("drop", (event) => { panel.classList.remove("over"); add([...event.dataTransfer.files], role); });
  }
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault()); // else the page is left
  listen(editor, { choose: chooseTool, resize: (step) => resizeBrush(Number(find("#size").value) + step), toggle: () => showMasks(!editor.shown) });
  model.onStoreProblem(() => say("This browser cannot keep your work: its storage is full or switched off. Download it before you leave.", true));
}

async function start() {
  wire();
  const lost = await model.restore().catch(() => say("This browser keeps nothing for pages, so your work will not survive a reload.", true));
  if (!project.classes.length) model.addClass();
  resizeBrush(find("#size").value);
  if (lost?.length) say(`This browser kept ${lost.join(", ")}, but cannot open ${lost.length > 1 ? "them" : "it"} any more.`, true);
  refresh({ classes: true, photos: true });
  await show(model.selectedPhoto());
}

/** Another tab has the project: this one shows nothing that could be changed. */
function stayOut() {
  for (const part of document.querySelectorAll("header.bar, main")) part.inert = true;
  say("The project is open in another tab of this browser. Go on there, or close it and load this page again.", true);
}

await ((await claim()) ? start() : stayOut());
document.documentElement.dataset.ready = "true";
