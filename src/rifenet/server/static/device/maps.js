// Sums over maps { width, height, data }.

export const sigmoid = (value) => 0.5 + 0.5 * Math.tanh(value / 2);
export const logOdds = (share) => Math.log(share / (1 - share));

/** A map at another size, bilinear with aligned corners, as networks enlarge their maps. */
export function enlarged({ width, height, data }, toWidth, toHeight) {
  const columns = interpolation(width, toWidth), rows = interpolation(height, toHeight), out = new Float32Array(toWidth * toHeight);
  for (let y = 0, to = 0; y < toHeight; y++) {
    const above = rows.low[y] * width, below = Math.min(rows.low[y] + 1, height - 1) * width, down = rows.share[y];
    for (let x = 0; x < toWidth; x++, to++) {
      const left = columns.low[x], right = Math.min(left + 1, width - 1), across = columns.share[x];
      const upper = data[above + left] + (data[below + left] - data[above + left]) * down;
      const other = data[above + right] + (data[below + right] - data[above + right]) * down;
      out[to] = upper + (other - upper) * across;
    }
  }
  return { width: toWidth, height: toHeight, data: out };
}

function interpolation(side, count) {
  const low = new Int32Array(count), share = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const position = count > 1 ? (i * (side - 1)) / (count - 1) : 0;
    low[i] = Math.floor(position);
    share[i] = position - low[i];
  }
  return { low, share };
}

/** Mean over the part of each pixel's window that lies inside the map. The window reaches so many columns and rows to each side. */
export function boxMean(map, columns, rows = columns) {
  const { width, height, data } = map;
  const across = meansAlong(data, height, width, width, 1, columns);
  return { width, height, data: meansAlong(across, width, height, 1, width, rows) };
}

function meansAlong(data, lines, length, lineStep, step, reach) {
  const out = new Float64Array(data.length), sums = new Float64Array(length + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * lineStep;
    for (let i = 0; i < length; i++) sums[i + 1] = sums[i] + data[start + i * step];
    for (let i = 0; i < length; i++) {
      const first = Math.max(i - reach, 0), last = Math.min(i + reach + 1, length);
      out[start + i * step] = (sums[last] - sums[first]) / (last - first);
    }
  }
  return out;
}
