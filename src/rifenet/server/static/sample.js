// The sample project: a few of the example photos that ship with the program, two of each class annotated.

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
  const named = Object.fromEntries(table.classes.map((name, index) => [index + 1, ids[name] ?? 0]));
  for (const name of CLASSES) {
    const photos = table.photos.filter((photo) => photo.classes.length === 1 && photo.classes[0] === name);
    for (const photo of photos.filter((each) => each.support)) await add(photo, "example", { ...named, 255: 255 });
    for (const photo of photos.filter((each) => !each.support).slice(0, QUERIES)) await add(photo, "query", null);
  }
  project.chosen = ids[CLASSES[0]];
}

async function add(entry, role, names) {
  const photo = await readPhoto(await (await fetch(`/examples/${entry.image}`)).blob(), entry.image.split("/").pop(), role);
  if (names) giveLabels(photo, renamed(await decodePng(new Uint8Array(await (await fetch(maskOf(entry))).arrayBuffer())), names));
  project.photos = [...project.photos, photo];
}

const maskOf = ({ mask }) => `/examples/${mask}`;
