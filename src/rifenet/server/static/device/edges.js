// Masks that follow the photo's own edges: a guided filter over the margins, found on a small copy of the photo and applied to it
// row by row. `rifenet.segmenting.refine` tells whose it is.

import { boxMean } from "./maps.js";
import { reduced, resizedBytes, rowsOf, widened } from "./resample.js";

const RADIUS = 8; // of the window, in pixels of the map
const EPSILON = 1e-4; // smaller variances of the colours, in 0..1, count as flat and not as edges
const GAP = 2; // a photo more than twice as large as the map, on each axis, is first reduced by whole blocks
const NEARLY_1 = Math.fround(1 - 1e-6);

/** The function that gives a row of a class's margins at the size of the photo. Each call fills the same row. */
export function refinedRows(picture, margins) {
  const { width, height } = picture, signed = { ...margins, data: margins.data.map((value) => Math.tanh(value / 2)) };
  const planes = coefficientsOf(copyOf(picture, margins.width, margins.height), signed);
  const rows = planes.map((plane) => rowsOf(widened(plane, width), height)), row = new Float32Array(width);
  return (y) => {
    const laid = rows.map((each) => each(y));
    for (let x = 0, from = y * width * 4; x < width; x++, from += 4) {
      let value = laid[3][x];
      for (let c = 0; c < 3; c++) value += laid[c][x] * (picture.data[from + c] / 255);
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
  return [0, 1, 2].map((c) => ({ width, height, data: Float64Array.from({ length: width * height }, (_, i) => Math.fround(data[i * 4 + c] / 255)) }));
}

/** The slope of each colour and then the offset, averaged over all windows that contain the pixel: four maps. */
function coefficientsOf(colours, map) {
  const { width, height } = map, reach = (length) => Math.max(1, Math.min(RADIUS, (length - 1) >> 1));
  const mean = (values) => boxMean({ width, height, data: values }, reach(width), reach(height)).data;
  const times = (a, b) => a.map((value, i) => value * b[i]);
  const guide = colours.map(({ data }) => data), target = Float64Array.from(map.data);
  const means = guide.map(mean), middle = mean(target);
  const own = guide.map((colour, c) => mean(times(colour, target)).map((value, i) => value - means[c][i] * middle[i]));
  const pairs = [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]];
  const spread = pairs.map(([a, b]) => mean(times(guide[a], guide[b])).map((value, i) => value - means[a][i] * means[b][i] + (a === b ? EPSILON : 0)));
  const slopes = guide.map(() => new Float64Array(width * height)), offset = new Float64Array(width * height);
  for (let i = 0; i < offset.length; i++) {
    const solved = solve(spread.map((each) => each[i]), own.map((each) => each[i]));
    offset[i] = middle[i];
    for (let c = 0; c < 3; c++) {
      slopes[c][i] = solved[c];
      offset[i] -= solved[c] * means[c][i];
    }
  }
  return [...slopes, offset].map((plane) => ({ width, height, data: Float32Array.from(mean(plane)) }));
}

/** x of the symmetric 3 x 3 system with the upper triangle [aa, ab, ac, bb, bc, cc] and the right side [x, y, z], by cofactors. */
function solve([aa, ab, ac, bb, bc, cc], [x, y, z]) {
  const first = bb * cc - bc * bc, second = ac * bc - ab * cc, third = ab * bc - ac * bb;
  const whole = aa * first + ab * second + ac * third;
  return [
    (first * x + second * y + third * z) / whole,
    (second * x + (aa * cc - ac * ac) * y + (ab * ac - aa * bc) * z) / whole,
    (third * x + (ab * ac - aa * bc) * y + (aa * bb - ab * ab) * z) / whole,
  ];
}
