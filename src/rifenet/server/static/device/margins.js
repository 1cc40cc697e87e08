// Margins: how far each pixel is above the mask threshold, by the network and by the class's fit, its pixel classifier included.

import { boxMean, enlarged, logOdds } from "./maps.js";

const RADII = [2, 5, 12]; // of the surroundings that a pixel's colour is compared with, in positions of the grid
const BOUND = 4; // largest score of a pixel classifier in size

/** An image that the network has encoded once for all classes. */
export class Seen {
  static async of(network, input) {
    return Object.assign(new Seen(), { network, input, features: await network.encode(input), fine: null });
  }

  /** Margins [S,S] of a class { context, fit, weights, bias }. */
  async margins({ context, fit, weights, bias }) {
    const { size, threshold } = this.network, own = enlarged(await this.network.decode(this.features, context), size, size);
    let less = logOdds(threshold);
    if (fit) {
      less = logOdds(fit.threshold);
      if (weights) {
        const scores = enlarged(this.scores(weights, bias), size, size);
        for (let i = 0; i < own.data.length; i++) own.data[i] += fit.blend * scores.data[i];
      }
    }
    for (let i = 0; i < own.data.length; i++) own.data[i] -= less;
    return own;
  }

  /** Log-odds of the class by its pixel classifier, on the grid of the fine features. */
  scores(weights, bias) {
    const { high, fine } = this.features, [, channels, rows, columns] = high.dims, [, more, height, width] = fine.dims;
    this.fine ??= contrasts(this.input.images, this.network.size, height);
    const coarse = weighted(high.data, weights, 0, channels, columns, rows);
    const own = weighted(fine.data, weights, channels, more, width, height);
    const looks = weighted(this.fine, weights, channels + more, this.fine.length / (width * height), width, height);
    const scores = enlarged(coarse, width, height);
    for (let i = 0; i < scores.data.length; i++) {
      scores.data[i] = Math.min(BOUND, Math.max(-BOUND, scores.data[i] + own.data[i] + looks.data[i] + bias));
    }
    return scores;
  }
}

/** The sum of `count` maps, each times its weight. */
function weighted(maps, weights, from, count, width, height) {
  const data = new Float64Array(width * height);
  for (let c = 0; c < count; c++) {
    const weight = weights[from + c], start = c * data.length;
    for (let i = 0; i < data.length; i++) data[i] += weight * maps[start + i];
  }
  return { width, height, data };
}

/** Colour and local contrast on a grid of `side`, [16,side,side], of an image [3,S,S]. */
export function contrasts(images, size, side) {
  const step = Math.floor((size - 1) / Math.max(side - 1, 1)), plane = size * size;
  const every = ({ data }) => {
    const out = { width: side, height: side, data: new Float64Array(side * side) };
    for (let y = 0; y < side; y++) for (let x = 0; x < side; x++) out.data[y * side + x] = data[y * step * size + x * step];
    return out;
  };
  const square = (data) => ({ width: size, height: size, data });
  const colours = [0, 1, 2].map((c) => every(boxMean(square(images.subarray(c * plane, (c + 1) * plane)), 1)));
  const mean = (a, b, c) => (a + b + c) / 3;
  const coarse = { width: side, height: side, data: colours[0].data.map((value, i) => mean(value, colours[1].data[i], colours[2].data[i])) };
  const grey = square(Float64Array.from({ length: plane }, (_, i) => mean(images[i], images[plane + i], images[2 * plane + i])));
  const around = RADII.flatMap((radius) => colours.map((colour) => less(colour, boxMean(colour, radius))));
  const spread = [1, 4].map((radius) => {
    const squares = boxMean(changed(coarse, (value) => value * value), radius), means = boxMean(coarse, radius);
    return changed(squares, (value, i) => Math.sqrt(Math.max(0, value - means.data[i] ** 2)));
  });
  const local = less(grey, boxMean(grey, step)), half = Math.floor(step / 2);
  const sides = [(value) => Math.min(value, 0), (value) => Math.max(value, 0)].map((part) => {
    const squares = changed(local, (value) => part(value) ** 2);
    return changed(every(boxMean(squares, half)), (value) => Math.sqrt(value));
  });
  const all = [...colours, ...around, ...spread, ...sides], out = new Float32Array(all.length * side * side);
  all.forEach(({ data }, index) => out.set(data, index * side * side));
  return out;
}

const changed = (map, change) => ({ ...map, data: map.data.map(change) });
const less = (map, other) => changed(map, (value, i) => value - other.data[i]);
