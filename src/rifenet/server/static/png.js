// Reads and writes PNG pictures of one byte a pixel. A canvas would turn the numbers into colours.

import { crc32 } from "./zip.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const DAMAGED = "Expected a whole PNG, but it is damaged.";

/** Labels as a PNG; `palette` has an [r, g, b] for each value, or is null for a grey one. */
export async function encodePng(labels, palette = null) {
  const { width, height, data } = labels;
  const rows = new Uint8Array((width + 1) * height); // each row after its filter, 0
  for (let y = 0; y < height; y++) rows.set(data.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8);
  header.setUint8(9, palette ? 3 : 0);
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", new Uint8Array(header.buffer))];
  if (palette) parts.push(chunk("PLTE", Uint8Array.from(palette.flat())));
  parts.push(chunk("IDAT", await through(rows, new CompressionStream("deflate"))), chunk("IEND", new Uint8Array()));
  return new Blob(parts, { type: "image/png" });
}

/** Labels of a PNG with 8 bits and one channel (grey or palette), not interlaced. Throws for another, and for one that is damaged. */
export async function decodePng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (SIGNATURE.some((byte, index) => bytes[index] !== byte)) throw new Error("Expected a PNG, but got another file.");
  let width = 0, height = 0;
  const packed = [];
  for (let at = 8; at + 12 <= bytes.length; at += 12 + view.getUint32(at)) {
    const size = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      const [bits, colour, , , interlaced] = bytes.subarray(at + 16, at + 21);
      if (bits !== 8 || (colour !== 0 && colour !== 3) || interlaced) throw new Error("Expected an 8-bit index PNG, but got another kind.");
    }
    if (kind === "IDAT") packed.push(bytes.subarray(at + 8, at + 8 + size));
  }
  const rows = await through(new Blob(packed), new DecompressionStream("deflate")).catch(() => []); // cut, or no deflate
  if (!width || !height || rows.length !== (width + 1) * height) throw new Error(DAMAGED);
  return { width, height, data: unfiltered(rows, width, height) };
}

function unfiltered(rows, width, height) {
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (width + 1)], from = y * (width + 1) + 1, to = y * width;
    if (filter > 4) throw new Error(DAMAGED);
    for (let x = 0; x < width; x++) {
      const left = x ? data[to + x - 1] : 0, up = y ? data[to + x - width] : 0, corner = x && y ? data[to + x - width - 1] : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
      data[to + x] = rows[from + x] + guess;
    }
  }
  return data;
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function chunk(kind, data) {
  const made = new Uint8Array(12 + data.length), view = new DataView(made.buffer);
  view.setUint32(0, data.length);
  made.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  made.set(data, 8);
  view.setUint32(8 + data.length, crc32(made.subarray(4, 8 + data.length)));
  return made;
}

async function through(data, stream) {
  const blob = data instanceof Blob ? data : new Blob([data]);
  return new Uint8Array(await new Response(blob.stream().pipeThrough(stream)).arrayBuffer());
}
