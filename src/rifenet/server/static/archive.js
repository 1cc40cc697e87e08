// Everything as a zip: what was chosen of index PNGs with the classes' colours, overlays and files for other programs, and one
// JSON. The server writes the files for other programs, as the command line does. Of a photo that stays on this device it gets the
// mask and a black picture of the photo's size; cut-outs, which alone show the photo, are then made here.

import { ask, formOf } from "./api.js";
import { fromBase64, rgb } from "./dom.js";
import { counts, makeLabels, renamed, resized, tint, whole } from "./labels.js";
import { decodePng, encodePng } from "./png.js";
import { classOf, isBlank, nameOf, photosOf, project, staysHere } from "./project.js";
import { results } from "./review.js";
import { zip } from "./zip.js";

const OWN = ["index", "overlay"]; // in the page's own colours

/** { blob, problems }: the zip, and a sentence for each photo that the server refused. Class i of masks is the i-th of the page, from 1. */
export async function archive(opacity, progress) {
  const numbers = Object.fromEntries(project.classes.map((each, index) => [each.id, index + 1]));
  const palette = Array.from({ length: 256 }, (_, value) => (value === 255 ? [255, 255, 255] : rgb(project.classes[value - 1]?.colour ?? "#000000")));
  const { formats } = project.options, others = formats.filter((each) => !OWN.includes(each));
  const files = [], photos = [], taken = new Set(), problems = [], together = {};
  const wanted = [...results(), ...photosOf("example").filter((photo) => !photo.suggested && !(isBlank(photo) && !photo.negative))];
  progress.begin("Writing the zip", wanted.length);
  for (const photo of wanted) {
    const stem = stemOf(photo.name, taken), labels = renamed(await fullLabels(photo), { ...numbers, 255: 255 }), paths = {};
    const mask = await encodePng(labels, palette), about = facts(photo, labels, numbers);
    const put = (kind, path, content) => {
      paths[kind] = path;
      files.push([path, content]);
    };
    if (formats.includes("index")) put("mask", `masks/${stem}.png`, mask);
    if (formats.includes("overlay")) put("overlay", `overlays/${stem}.jpg`, await overlay(photo, labels, palette, opacity));
    if (others.length) {
      try {
        for (const { kind, name, content, blob } of await written(photo, labels, mask, about, stem, others)) {
          const folder = kind.split(":")[0];
          if (blob) {
            put(kind, `${folder}/${name}`, blob);
            continue;
          }
          const bytes = fromBase64(content);
          put(kind, `${folder}/${name}`, new Blob([bytes]));
          (together[folder] ??= []).push(new TextDecoder().decode(bytes));
        }
      } catch (error) {
        if (!error.status) throw error; // no server
        problems.push(`${photo.name}: ${error.message}`);
      }
    }
    photos.push({ name: photo.name, role: photo.role, width: photo.width, height: photo.height, ...paths, ...about });
    progress.step();
  }
  const classes = project.classes.map((each, index) => ({ id: index + 1, name: nameOf(each), colour: each.colour }));
  for (const [kind, join] of Object.entries(TOGETHER)) if (together[kind]) files.unshift(join(together[kind], classes));
  files.unshift(["results.json", asJson({ classes, photos })]);
  return { blob: await zip(files), problems };
}

const asJson = (content) => new Blob([JSON.stringify(content, null, 1)]);

async function written(photo, labels, mask, { classes }, stem, formats) {
  const named = classes.map(({ id, name, confidence }) => ({ name: name || `class ${id}`, confidence: confidence ?? 1 }));
  const stays = staysHere(photo.blob), asked = stays ? formats.filter((each) => each !== "cutout") : formats;
  const own = stays && formats.includes("cutout") ? [{ kind: "cutout", name: `${stem}_cutout.png`, blob: await cutout(photo, labels) }] : [];
  if (!asked.length) return own;
  const image = stays ? await encodePng(makeLabels(photo.width, photo.height)) : photo.blob;
  const form = [["image", image, photo.name], ["mask", mask, "mask.png"], ["classes", JSON.stringify(named)], ["formats", asked.join(",")], ["stem", stem], ["objects", String(project.options.instances)]];
  return [...own, ...(await ask("/api/files", { method: "POST", form: formOf(form) })).files];
}

/** The photo, transparent where the labels are 0. */
async function cutout(photo, { data: labels }) {
  const canvas = new OffscreenCanvas(photo.width, photo.height), pen = canvas.getContext("2d");
  const bitmap = await createImageBitmap(photo.blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const picture = pen.getImageData(0, 0, photo.width, photo.height);
  labels.forEach((value, place) => value || (picture.data[place * 4 + 3] = 0));
  pen.putImageData(picture, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** For some formats, a file of all photos: its path and content, from the files of single photos. */
const TOGETHER = {
  coco: (texts) => ["coco.json", asJson(mergedCoco(texts.map((text) => JSON.parse(text))))],
  csv: (texts) => ["table.csv", new Blob(texts.map((text, index) => (index ? text.slice(text.indexOf("\n") + 1) : text)))],
  yolo: (texts, classes) => ["yolo/data.yaml", new Blob([`path: .\ntrain: images\nval: images\nnames: ${JSON.stringify(Object.fromEntries(classes.map(({ name }, index) => [index, name])))}\n`])],
  cvat: (texts) => ["annotations.xml", new Blob([mergedCvat(texts)])],
};

function mergedCvat(texts) {
  const [first, ...others] = texts.map((text) => new DOMParser().parseFromString(text, "text/xml"));
  for (const each of others) first.documentElement.append(...each.querySelectorAll("image"));
  first.querySelectorAll("image").forEach((image, index) => image.setAttribute("id", index));
  return `<?xml version="1.0" encoding="utf-8"?>\n${new XMLSerializer().serializeToString(first.documentElement)}\n`;
}

function mergedCoco(files) {
  const images = files.map((each, index) => ({ ...each.images[0], id: index + 1 }));
  const annotations = files.flatMap((each, index) => each.annotations.map((row) => ({ ...row, image_id: index + 1 })));
  return { images, annotations: annotations.map((row, index) => ({ ...row, id: index + 1 })), categories: files[0].categories };
}

function facts(photo, labels, numbers) {
  const areas = counts(labels), found = photo.result?.found ?? [], corrected = photo.result?.corrected ?? true;
  const facts = project.classes.map((entry) => {
    const { confidence = null, quality = null, objects = null, present } = found.find((each) => each.id === entry.id) ?? {}, pixels = areas[numbers[entry.id]];
    const more = corrected ? {} : { ...(quality === null ? {} : { quality }), ...(objects === null ? {} : { objects }) };
    return { id: numbers[entry.id], name: nameOf(entry), pixels, confidence, present: corrected ? pixels > 0 : present ?? pixels > 0, ...more };
  });
  return { corrected, accepted: Boolean(photo.accepted), classes: facts };
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
