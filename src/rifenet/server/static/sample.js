// The sample project: a few of the example photos that ship with the program, two of each class annotated with care.
// The examples' own masks are those of their source, which are coarser: `sample/` has finer ones, made with strokes.

import { renamed } from "./labels.js";
import { decodePng } from "./png.js";
import { addClass, giveLabels, isPainted, nameOf, project, readPhoto } from "./project.js";

const CLASSES = ["bear", "pizza"];
const QUERIES = 3; // of each class

export async function addSample() {
  const table = await (await fetch("/examples/examples.json")).json();
  project.classes = project.classes.filter((each) => nameOf(each) || isPainted(each.id)); // not the row that waits for a name
  const ids = {};
  for (const name of CLASSES) ids[name] = project.classes.find((each) => nameOf(each) === name)?.id ?? addClass(name);
  for (const name of CLASSES) {
    const photos = table.photos.filter((photo) => photo.classes.length === 1 && photo.classes[0] === name);
    for (const photo of photos.filter((each) => each.support)) await add(photo, "example", ids[name]);
    for (const photo of photos.filter((each) => !each.support).slice(0, QUERIES)) await add(photo, "query", 0);
  }
  project.chosen = ids[CLASSES[0]];
}

async function add(entry, role, id) {
  const file = entry.image.split("/").pop(), photo = await readPhoto(await (await fetch(`/examples/${entry.image}`)).blob(), file, role);
  if (id) {
    const mask = await (await fetch(`/static/sample/${file.replace(/jpg$/, "png")}`)).arrayBuffer();
    giveLabels(photo, renamed(await decodePng(new Uint8Array(mask)), { 1: id }));
  }
  project.photos = [...project.photos, photo];
}
