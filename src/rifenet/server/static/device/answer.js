// What the classes' margins say of a photo: its mask, and of each class its presence, quality and objects, as the server answers.

import { refinedRows } from "./edges.js";
import { logOdds, sigmoid } from "./maps.js";
import { clean, objectsOf } from "./parts.js";
import { rowsOf, widened } from "./resample.js";
import { cropped } from "./tiles.js";

const PRESENT = 0.5; // least confidence of a class that is judged present
const LEAST = 1e-4;

/** Mean score of a class's pixels, with the scores themselves as weights. `real` says which pixels of the square are the photo's. */
export function presenceStatistic(margins, real = null) {
  let total = 0, squares = 0;
  for (let i = 0; i < margins.length; i++) {
    if (real && !real[i]) continue;
    const score = sigmoid(margins[i]);
    total += score;
    squares += score * score;
  }
  return total > 0 ? squares / total : 0;
}

/** Confidence in 0..1 that a photo shows a class, by the margins of the first pass. */
export function confidenceOf(margins, real, calibration, { shift, fit }) {
  const statistic = presenceStatistic(margins, real);
  return calibration ? sigmoid(calibration.a * statistic + calibration.b + shift + (fit?.shift ?? 0)) : statistic;
}

/**
 * The photo's mask, and what it says of each class.
 *
 * @param picture the photo, four bytes a pixel.
 * @param classes of the file of learned classes, with `look`, the fit's.
 * @param found { maps, placement, confidences, high }: margins of each class on a square, where the photo lies in it, the confidences,
 *   and the network's high features, a tensor [1,D,h,w] of the first pass with its `real` rows and columns.
 * @param model { calibration, threshold, quality } of the server's model.
 * @param options { keepAbsent, refine: [of each class], clean }.
 * @returns { mask: { width, height, data }, classes: [{ present, confidence, quality, objects }] } with `objects` null where only the
 *   server tells touching ones apart.
 */
export function answerOf(picture, classes, { maps, placement, confidences, high }, { calibration, threshold, quality }, options) {
  const { width, height } = picture, own = maps.map((map) => cropped(map, placement.scaledWidth, placement.scaledHeight));
  const rows = own.map((map, n) => once(() => (options.refine[n] ? refinedRows(picture, map) : rowsOf(widened(map, width), height))));
  const present = classes.map((_, n) => (calibration ? confidences[n] >= PRESENT : claims(rows[n](), height)));
  const mask = { width, height, data: new Uint8Array(width * height) };
  fill(mask, rows, classes.map((_, n) => present[n] || options.keepAbsent), calibration ? confidences : null);
  if (options.clean) clean(mask, classes);
  const told = classes.map((known, n) => {
    const shown = mask.data.includes(n + 1), values = shown ? rows[n]() : null, more = logOdds(threshold);
    const objects = shown ? objectsOf(mask, n + 1, known.shapes, (y) => Float64Array.from(values(y), (margin) => sigmoid(margin + more))) : [];
    return { present: present[n], confidence: confidences[n], quality: expectedIou(signsOf(own[n], known, high), quality), objects };
  });
  return { mask, classes: told };
}

/** `make`, called at most once. */
function once(make) {
  let made = null;
  return () => (made ??= make());
}

function claims(row, height) {
  for (let y = 0; y < height; y++) if (row(y).some((margin) => margin > 0)) return true;
  return false;
}

/** Gives each pixel to the shown class of the largest margin above 0, to which the log-odds of its confidence are added. */
function fill({ width, height, data }, rows, shown, confidences) {
  const best = new Float32Array(width);
  const taking = rows.flatMap((made, n) => {
    if (!shown[n]) return [];
    return [{ value: n + 1, row: made(), more: confidences ? logOdds(Math.min(Math.max(confidences[n], LEAST), 1 - LEAST)) : 0 }];
  });
  for (let y = 0; y < height; y++) {
    best.fill(-Infinity);
    for (const { value, row, more } of taking) {
      const margins = row(y), start = y * width;
      for (let x = 0; x < width; x++) {
        const rank = margins[x] + more;
        if (margins[x] > 0 && rank > best[x]) {
          data[start + x] = value;
          best[x] = rank;
        }
      }
    }
  }
}

const boundedOdds = (share) => logOdds(Math.min(Math.max(share, 0.01), 0.99));

/** Signs of a class's mask that its quality is taken from (`rifenet.segmenting.quality`). */
export function signsOf(margins, { fit, look }, high) {
  let mass = 0, missed = 0, count = 0, sure = 0, perhaps = 0;
  for (const margin of margins.data) {
    const score = sigmoid(margin);
    if (margin > 0) {
      mass += score;
      count += 1;
    } else missed += score;
    if (margin > 1) sure += 1;
    if (margin > -1) perhaps += 1;
  }
  const area = Math.log(Math.max(count / Math.max(margins.data.length, 1), LEAST));
  const signs = {
    certain: boundedOdds(mass / Math.max(count + missed, LEAST)),
    inside: boundedOdds(count ? mass / count : 0),
    stable: sure / Math.max(perhaps, 1),
    statistic: presenceStatistic(margins.data),
    area,
  };
  if (!fit) return signs;
  const fitted = { own: boundedOdds(fit.quality), one_shot: Number(fit.shots === 1), size: Math.abs(area - Math.log(Math.max(fit.share, LEAST))) };
  return { ...signs, ...fitted, alike: 0, apart: 0, contrast: 0, ...(high && look ? resemblance(margins, high, look) : {}) };
}

/** How the mask's positions compare with the examples; `look` is [2,D], the background's mean and the class's. */
function resemblance({ width, height, data }, { tensor, rows, columns }, look) {
  const [, channels, , stride] = tensor.dims, plane = tensor.dims[2] * stride;
  const inside = [], at = [];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const from = Math.trunc(((y + 0.5) * height) / rows) * width + Math.trunc(((x + 0.5) * width) / columns);
      inside.push(sigmoid(data[from]) ** 2);
      at.push(y * stride + x);
    }
  }
  let length = 0, background = 0, foreground = 0;
  const nearness = new Float64Array(at.length);
  for (let c = 0; c < channels; c++) {
    let mean = 0;
    const apart = look[channels + c] - look[c];
    for (let i = 0; i < at.length; i++) {
      const value = tensor.data[c * plane + at[i]];
      mean += value * inside[i];
      nearness[i] += apart * value;
    }
    length += mean * mean;
    background += look[c] * mean;
    foreground += look[channels + c] * mean;
  }
  const scale = Math.max(Math.sqrt(length), 1e-12);
  const sums = [0, 0, 0, 0];
  nearness.forEach((value, i) => {
    sums[0] += value * inside[i];
    sums[1] += inside[i];
    sums[2] += value * (1 - inside[i]);
    sums[3] += 1 - inside[i];
  });
  const contrast = sums[0] / Math.max(sums[1], LEAST) - sums[2] / Math.max(sums[3], LEAST);
  return { alike: foreground / scale, apart: (foreground - background) / scale, contrast };
}

/** Expected IoU of a mask with these signs, by the coefficients of `quality.json`. */
export function expectedIou(signs, models) {
  const { bias, weights } = "own" in signs ? models.fitted : models.maps;
  return sigmoid(Object.entries(weights).reduce((sum, [name, weight]) => sum + weight * signs[name], bias));
}
