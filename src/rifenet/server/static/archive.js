// Everything as a zip: index PNGs with the classes' colours, overlays, and one JSON.

import { rgb } from "./dom.js";
import { counts, renamed, resized, tint, whole } from "./labels.js";
import { decodePng, encodePng } from "./png.js";
import { classOf, isBlank, nameOf, photosOf, project } from "./project.js";
import { zip } from "./zip.js";

/** The zip as a Blob. Class i of masks is the i-th of the page, from 1. */
export async function archive(opacity) {
  const numbers = Object.fromEntries(project.classes.map((each, index) => [each.id, index + 1]));
  const palette = Array.from({ length: 256 }, (_, value) => (value === 255 ? [255, 255, 255] : rgb(project.classes[value - 1]?.colour ?? "#000000")));
  const files = [], photos = [], taken = new Set();
  const queries = photosOf("query").filter((photo) => photo.result || !isBlank(photo));
  for (const photo of [...queries, ...photosOf("example")]) {
    const stem = stemOf(photo.name, taken), labels = renamed(await fullLabels(photo), { ...numbers, 255: 255 });
    const paths = { mask: `masks/${stem}.png`, overlay: `overlays/${stem}.jpg` };
    files.push([paths.mask, await encodePng(labels, palette)], [paths.overlay, await overlay(photo, labels, palette, opacity)]);
    photos.push({ name: photo.name, role: photo.role, width: photo.width, height: photo.height, ...paths, ...facts(photo, labels, numbers) });
  }
  const classes = project.classes.map((each, index) => ({ id: index + 1, name: nameOf(each), colour: each.colour }));
  files.unshift(["results.json", new Blob([JSON.stringify({ classes, photos }, null, 1)])]);
  return zip(files);
}

function facts(photo, labels, numbers) {
  const areas = counts(labels), found = photo.result?.found ?? [], corrected = photo.result?.corrected ?? true;
  const facts = project.classes.map((entry) => {
    const { confidence = null, present } = found.find((each) => each.id === entry.id) ?? {}, pixels = areas[numbers[entry.id]];
    return { id: numbers[entry.id], name: nameOf(entry), pixels, confidence, present: corrected ? pixels > 0 : present ?? pixels > 0 };
  });
  return { corrected, classes: facts };
}

/** Labels at the photo's own size: the server's mask as it came, or what was painted, enlarged. */
async function fullLabels(photo) {
  if (photo.result && !photo.result.corrected) {
    const ids = Object.fromEntries(Object.entries(photo.result.ids).filter(([, id]) => classOf(id)));
    return renamed(await decodePng(new Uint8Array(await photo.result.png.arrayBuffer())), ids);
  }
  return resized(photo.labels, photo.width, photo.height);
}

async function overlay(photo, labels, palette, opacity) {
  const canvas = new OffscreenCanvas(photo.width, photo.height), tinted = new OffscreenCanvas(photo.width, photo.height);
  const bitmap = await createImageBitmap(photo.blob, { imageOrientation: "from-image" });
  tinted.getContext("2d").putImageData(tint(labels, whole(labels), { ...palette.slice(0, 255), 0: null }, opacity), 0, 0);
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  pen.drawImage(tinted, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

/** A file name without its ending, safe anywhere and not yet taken. */
function stemOf(name, taken) {
  const base = name.replace(/^.*[/\\]/, "").replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}._-]+/gu, "_").replace(/^\.+/, "") || "photo";
  let stem = base;
  for (let number = 2; taken.has(stem.toLowerCase()); number++) stem = `${base}_${number}`;
  taken.add(stem.toLowerCase());
  return stem;
}
