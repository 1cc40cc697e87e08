// A large photo, or one with small objects, a second time, in overlapping tiles at twice the scale of the first pass.

import { Seen } from "./margins.js";
import { roundHalfEven, squared } from "./photo.js";
import { resizedMap } from "./resample.js";

const ZOOM = 2;
const LARGE = 3; // times the network's side: the longer side of a photo that is segmented in tiles unasked
const OVERLAP = 0.5;
const SHARE = 0.75; // weight of the tiles in the mix
const RULED_OUT = -3, DOUBTED = -2; // margins of the first pass below which tiles do not count, and above which they count in full

export const isLarge = ({ width, height, size }) => Math.max(width, height) >= LARGE * size;

/** [top, left] of windows that cover the photo on the canvas, row by row. */
export function tilesOf({ scaledWidth, scaledHeight }, size) {
  return starts(scaledHeight, size).flatMap((top) => starts(scaledWidth, size).map((left) => [top, left]));
}

function starts(length, size) {
  if (length <= size) return [0];
  const steps = Math.max(1, Math.ceil((length - size - 1) / (size * (1 - OVERLAP)))); // a pixel less is left to rounding
  return Array.from({ length: steps + 1 }, (_, i) => roundHalfEven((i * (length - size)) / steps));
}

/** [left, top, right, below] of the part of a canvas of that width and height that a tile sees best of all tiles. */
export function cellOf([top, left], tiles, size, width, height) {
  const [upper, lower] = between(top, tiles.map((tile) => tile[0]), size, height);
  const [first, last] = between(left, tiles.map((tile) => tile[1]), size, width);
  return [first, upper, last, lower];
}

function between(start, all, size, whole) {
  const starts = [...new Set(all)].sort((a, b) => a - b), place = starts.indexOf(start);
  const border = (n) => Math.floor((starts[n] + starts[n + 1] + size) / 2);
  return [place > 0 ? border(place - 1) : 0, place < starts.length - 1 ? border(place) : whole];
}

/**
 * Mixes tiles into the first pass. `maps` are the classes' margins [S,S], `wanted` says which classes take tiles.
 * { maps, placement }: margins [D,D], D = 2 S, and where the photo lies in them.
 */
export async function withTiles(network, picture, classes, wanted, maps, placement) {
  const { size } = placement, { images, valid, placement: canvas } = squared(picture, ZOOM * size);
  const { scaledWidth: width, scaledHeight: height } = canvas;
  const coarse = maps.map((map) => resizedMap(cropped(map, placement.scaledWidth, placement.scaledHeight), width, height).data);
  const totals = coarse.map(({ length }) => new Float32Array(length)), weights = coarse.map(({ length }) => new Float32Array(length));
  const tiles = tilesOf(canvas, size);
  for (const [top, left] of tiles) {
    const cell = cellOf([top, left], tiles, size, width, height);
    const below = Math.min(height, top + size), right = Math.min(width, left + size);
    const open = classes.map((_, n) => n).filter((n) => wanted[n] && reaches(coarse[n], width, cell));
    if (!open.length) continue;
    const seen = await Seen.of(network, windowOf(images, valid, canvas.size, top, left, size));
    const down = ramp(top, below - top, height), across = ramp(left, right - left, width);
    for (const n of open) {
      const part = await seen.margins(classes[n]);
      for (let y = top; y < below; y++) {
        for (let x = left; x < right; x++) {
          const weight = down[y - top] * across[x - left];
          totals[n][y * width + x] += weight * part.data[(y - top) * size + x - left];
          weights[n][y * width + x] += weight;
        }
      }
    }
  }
  coarse.forEach((map, n) => {
    for (let i = 0; i < map.length; i++) {
      if (!weights[n][i]) continue;
      const share = SHARE * Math.min(1, Math.max(0, (map[i] - RULED_OUT) / (DOUBTED - RULED_OUT)));
      map[i] += share * (totals[n][i] / weights[n][i] - map[i]);
    }
  });
  return { maps: coarse.map((data) => padded(data, width, height, canvas.size)), placement: canvas };
}

/** The upper left corner of a map. */
export function cropped({ width: from, data }, width, height) {
  const out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) out.set(data.subarray(y * from, y * from + width), y * width);
  return { width, height, data: out };
}

function padded(data, width, height, size) {
  const out = new Float32Array(size * size);
  for (let y = 0; y < height; y++) out.set(data.subarray(y * width, (y + 1) * width), y * size);
  return { width: size, height: size, data: out };
}

function reaches(map, width, [left, top, right, below]) {
  for (let y = top; y < below; y++) for (let x = left; x < right; x++) if (map[y * width + x] > RULED_OUT) return true;
  return false;
}

function windowOf(images, valid, side, top, left, size) {
  const own = new Float32Array(3 * size * size), real = new Uint8Array(size * size);
  for (let y = 0; y < size; y++) {
    const from = (top + y) * side + left;
    for (let c = 0; c < 3; c++) own.set(images.subarray(c * side * side + from, c * side * side + from + size), (c * size + y) * size);
    real.set(valid.subarray(from, from + size), y * size);
  }
  return { images: own, valid: real };
}

/** Weights along one axis: 1 in the middle and at the canvas's edges, falling towards edges inside the canvas. */
function ramp(start, length, whole) {
  return Array.from({ length }, (_, i) => {
    const before = start > 0 ? (i + 0.5) / (length / 2) : 1, after = start + length < whole ? (length - i - 0.5) / (length / 2) : 1;
    return Math.fround(Math.min(1, before, after));
  });
}

