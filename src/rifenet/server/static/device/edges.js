// Masks that follow the photo's own edges: a guided filter over the margins, found on a small copy of the photo and applied to it
// row by row. `rifenet.segmenting.refine` tells whose it is.

import { boxMean } from "./maps.js";
import { reduced, resizedBytes, resizedMap, rowsOf, widened } from "./resample.js";

const SHRUNK = 2; // how much larger the margins are than the map that the filter sees, on each axis
const RADIUS = 4; // of the window, in pixels of that map
const EPSILON = 1e-4; // smaller variances of the colours, in 0..1, count as flat and not as edges
const GAP = 2; // a photo more than twice as large as the map, on each axis, is first reduced by whole blocks
const NEARLY_1 = Math.fround(1 - 1e-6);

/** The function that gives a row of a class's margins at the size of the photo. Each call fills the same row. */
export function refinedRows(picture, margins) {
  const { width, height } = picture, signed = { ...margins, data: margins.data.map((value) => Math.tanh(value / 2)) };
  const shrunk = resizedMap(signed, Math.ceil(margins.width / SHRUNK), Math.ceil(margins.height / SHRUNK));
  const planes = coefficientsOf(copyOf(picture, shrunk.width, shrunk.height), shrunk);
  const rows = planes.map((plane) => rowsOf(widened(plane, width), height)), row = new Float32Array(width);
  return (y) => {
    const [red, green, blue, offset] = rows.map((each) => each(y)), { data } = picture;
    for (let x = 0, from = y * width * 4; x < width; x++, from += 4) {
      const value = offset[x] + (red[x] * data[from] + green[x] * data[from + 1] + blue[x] * data[from + 2]) / 255;
      row[x] = 2 * Math.atanh(Math.min(NEARLY_1, Math.max(-NEARLY_1, value)));
    }
    return row;
  };
}

/** The photo at the size of the map: three planes in 0..1. */
function copyOf(picture, width, height) {
  const block = (side, to) => Math.max(1, Math.trunc(side / to / GAP));
  const [columns, rows] = [block(picture.width, width), block(picture.height, height)];
  const blocks = reduced(picture, columns, rows);
  const { data } = resizedBytes(blocks, width, height, picture.width / columns, picture.height / rows);
  return [0, 1, 2].map((c) => {
    const plane = new Float32Array(width * height);
    for (let i = 0; i < plane.length; i++) plane[i] = data[i * 4 + c] / 255;
    return plane;
  });
}

/** The slope of each colour and then the offset, averaged over all windows that contain the pixel: four maps. */
function coefficientsOf([red, green, blue], map) {
  const { width, height } = map, reach = (length) => Math.max(1, Math.min(RADIUS, (length - 1) >> 1));
  const mean = (values) => boxMean({ width, height, data: values }, reach(width), reach(height)).data;
  const spread = (a, b, meanA, meanB, more) => {
    const products = new Float64Array(a.length);
    for (let i = 0; i < products.length; i++) products[i] = a[i] * b[i];
    const found = mean(products);
    for (let i = 0; i < found.length; i++) found[i] += more - meanA[i] * meanB[i];
    return found;
  };
  const [r, g, b, m] = [red, green, blue, map.data].map(mean);
  const rr = spread(red, red, r, r, EPSILON), rg = spread(red, green, r, g, 0), rb = spread(red, blue, r, b, 0);
  const gg = spread(green, green, g, g, EPSILON), gb = spread(green, blue, g, b, 0), bb = spread(blue, blue, b, b, EPSILON);
  const rm = spread(red, map.data, r, m, 0), gm = spread(green, map.data, g, m, 0), bm = spread(blue, map.data, b, m, 0);
  const slopes = [r, g, b].map(({ length }) => new Float64Array(length)), offset = m;
  for (let i = 0; i < offset.length; i++) { // the symmetric 3 x 3 system, by cofactors
    const first = gg[i] * bb[i] - gb[i] * gb[i], second = rb[i] * gb[i] - rg[i] * bb[i], third = rg[i] * gb[i] - rb[i] * gg[i];
    const fourth = rr[i] * bb[i] - rb[i] * rb[i], fifth = rg[i] * rb[i] - rr[i] * gb[i], sixth = rr[i] * gg[i] - rg[i] * rg[i];
    const whole = rr[i] * first + rg[i] * second + rb[i] * third;
    slopes[0][i] = (first * rm[i] + second * gm[i] + third * bm[i]) / whole;
    slopes[1][i] = (second * rm[i] + fourth * gm[i] + fifth * bm[i]) / whole;
    slopes[2][i] = (third * rm[i] + fifth * gm[i] + sixth * bm[i]) / whole;
    offset[i] -= slopes[0][i] * r[i] + slopes[1][i] * g[i] + slopes[2][i] * b[i];
  }
  return [...slopes, offset].map((plane) => ({ width, height, data: Float32Array.from(mean(plane)) }));
}
