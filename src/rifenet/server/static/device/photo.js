// A photo as the network takes it: upright, without its colour profile, the longer side resized to the network's, padded.

import { resizedBytes } from "./resample.js";

const MEAN = [0.485, 0.456, 0.406]; // ImageNet's mean colour: the padding
const MOST = 2 ** 27; // pixels: the memory of a page is bounded

/** Why this photo can only be read on the server. */
export class Unreadable extends Error {}

/** The photo { width, height, data } of four bytes a pixel, as its file has it. Throws `Unreadable`. */
export async function decoded(blob) {
  await refuseOdd(blob);
  const how = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, how).catch(() => {
    throw new Unreadable("this browser cannot open it");
  });
  const { width, height } = bitmap;
  if (width * height > MOST) throw new Unreadable(`it has ${width} x ${height} pixels`);
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = pen.getImageData(0, 0, width, height);
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) throw new Unreadable("a part of it is transparent");
  return { width, height, data };
}

/** 16 bits a colour: a browser shows the upper 8, and the server decides which are black and white. */
async function refuseOdd(blob) {
  const start = new Uint8Array(await blob.slice(0, 26).arrayBuffer());
  const isPng = start[0] === 137 && start[1] === 80 && start[2] === 78;
  if (isPng && start[24] === 16) throw new Unreadable("it has 16 bits a colour");
}

/** Where a photo lies in a square: { width, height, size, scaledWidth, scaledHeight }, in its top left corner. */
export function place(width, height, size) {
  const scale = size / Math.max(width, height);
  const scaled = (side) => Math.max(1, roundHalfEven(side * scale));
  return { width, height, size, scaledWidth: scaled(width), scaledHeight: scaled(height) };
}

/** Python's way: a half goes to the even neighbour. */
export function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

/** { images, valid, placement } of a decoded photo: Float32Array [3,size,size] in 0..1, and Uint8Array [size,size], 1 on real pixels. */
export function squared(picture, size) {
  const placement = place(picture.width, picture.height, size), { scaledWidth, scaledHeight } = placement;
  const small = resizedBytes(picture, scaledWidth, scaledHeight), plane = size * size;
  const images = new Float32Array(3 * plane), valid = new Uint8Array(plane);
  MEAN.forEach((mean, c) => images.fill(mean, c * plane, (c + 1) * plane));
  for (let y = 0, from = 0; y < scaledHeight; y++) {
    for (let x = 0, to = y * size; x < scaledWidth; x++, to++, from += 4) {
      for (let c = 0; c < 3; c++) images[c * plane + to] = small.data[from + c] / 255;
      valid[to] = 1;
    }
  }
  return { images, valid, placement };
}
