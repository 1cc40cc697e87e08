// Bilinear resizing with a filter that widens when it shrinks, as Pillow does it, so that the network sees here what it sees on the
// server. A canvas's own resizing is another filter, and each browser's is different.
//
// Each axis is resized by itself, the horizontal one first. Bytes are weighted with whole numbers and rounded after each axis.

const BITS = 22; // of a weight of bytes, after the point

/**
 * For each of `count` outputs: the first of the values that it is made of, and their weights. { first, size, weights }: output i
 * is the sum of weights[i * size + j] times value first[i] + j. `from` and `to` bound the part of the `side` values to resize.
 */
export function coefficients(side, count, from = 0, to = side) {
  const scale = (to - from) / count, support = Math.max(scale, 1), size = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(count), weights = new Float64Array(count * size);
  for (let i = 0; i < count; i++) {
    const centre = from + (i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(centre - support + 0.5)), high = Math.min(side, Math.trunc(centre + support + 0.5));
    let total = 0;
    for (let j = 0; j < high - low; j++) {
      const weight = Math.max(0, 1 - Math.abs((j + low - centre + 0.5) / support));
      weights[i * size + j] = weight;
      total += weight;
    }
    if (total) for (let j = 0; j < high - low; j++) weights[i * size + j] /= total;
    first[i] = low;
  }
  return { first, size, weights };
}

/**
 * A picture { width, height, data } of four bytes a pixel at another size; the fourth byte is not kept. Of the picture, `right`
 * columns and `below` rows are resized, which need not be whole numbers.
 */
export function resizedBytes(picture, width, height, right = picture.width, below = picture.height) {
  const narrow = picture.width === width && right === width ? picture : bytesAlong(picture, width, right, true);
  return narrow.height === height && below === height ? narrow : bytesAlong(narrow, height, below, false);
}

function bytesAlong({ width, height, data }, count, end, horizontal) {
  const { first, size, weights } = coefficients(horizontal ? width : height, count, 0, end);
  const whole = Int32Array.from(weights, (weight) => Math.trunc(weight * 2 ** BITS + (weight < 0 ? -0.5 : 0.5)));
  const made = { width: horizontal ? count : width, height: horizontal ? height : count };
  const out = new Uint8ClampedArray(made.width * made.height * 4), step = horizontal ? 4 : width * 4, half = 1 << (BITS - 1);
  const used = Array.from({ length: count }, (_, i) => lastUsed(whole, i * size, size));
  for (let y = 0, to = 0; y < made.height; y++) {
    for (let x = 0; x < made.width; x++, to += 4) {
      const place = horizontal ? x : y, terms = used[place];
      let from = horizontal ? (y * width + first[place]) * 4 : (first[place] * width + x) * 4;
      let red = half, green = half, blue = half;
      for (let j = place * size; j < terms; j++, from += step) {
        const weight = whole[j];
        red += data[from] * weight;
        green += data[from + 1] * weight;
        blue += data[from + 2] * weight;
      }
      out[to] = red >> BITS;
      out[to + 1] = green >> BITS;
      out[to + 2] = blue >> BITS;
    }
  }
  return { ...made, data: out };
}

/** One behind the last weight that is not 0 of those of an output; the first stays. */
function lastUsed(weights, start, size) {
  let end = start + size;
  while (end > start + 1 && !weights[end - 1]) end--;
  return end;
}

/** A map { width, height, data } of numbers with its rows resized to `width`. */
export function widened({ width: from, height, data }, width) {
  if (from === width) return { width, height, data };
  const { first, size, weights } = coefficients(from, width), out = new Float32Array(width * height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to++) {
      let sum = 0;
      const last = Math.min(size, from - first[x]);
      for (let j = 0; j < last; j++) sum += data[y * from + first[x] + j] * weights[x * size + j];
      out[to] = sum;
    }
  }
  return { width, height, data: out };
}

/** The function that gives a row, of `height`, of a map whose rows have their width already. Each call fills the same row. */
export function rowsOf({ width, height: from, data }, height) {
  if (from === height) return (y) => data.subarray(y * width, (y + 1) * width);
  const { first, size, weights } = coefficients(from, height), sums = new Float64Array(width), row = new Float32Array(width);
  return (y) => {
    sums.fill(0);
    const last = Math.min(size, from - first[y]);
    for (let j = 0; j < last; j++) {
      const weight = weights[y * size + j], start = (first[y] + j) * width;
      if (weight) for (let x = 0; x < width; x++) sums[x] += data[start + x] * weight;
    }
    row.set(sums);
    return row;
  };
}

/** A map of numbers at another size. */
export function resizedMap(map, width, height) {
  const rows = rowsOf(widened(map, width), height), out = new Float32Array(width * height);
  for (let y = 0; y < height; y++) out.set(rows(y), y * width);
  return { width, height, data: out };
}

/** A picture { width, height, data } of four bytes a pixel, each pixel the mean of a block of columns x rows; the fourth is not kept. */
export function reduced(picture, columns, rows) {
  if (columns === 1 && rows === 1) return picture;
  const { width, height, data } = picture, made = { width: Math.ceil(width / columns), height: Math.ceil(height / rows) };
  const out = new Uint8ClampedArray(made.width * made.height * 4);
  for (let y = 0, to = 0; y < made.height; y++) {
    for (let x = 0; x < made.width; x++, to += 4) {
      const right = Math.min(width, (x + 1) * columns), below = Math.min(height, (y + 1) * rows), sums = [0, 0, 0];
      for (let row = y * rows; row < below; row++) {
        for (let column = x * columns; column < right; column++) for (let c = 0; c < 3; c++) sums[c] += data[(row * width + column) * 4 + c];
      }
      const count = (right - x * columns) * (below - y * rows);
      for (let c = 0; c < 3; c++) out[to + c] = Math.floor((sums[c] + (count >> 1)) / count);
    }
  }
  return { ...made, data: out };
}
