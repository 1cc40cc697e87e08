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
export function boxMean({ width, height, data }, columns, rows = columns) {
  const out = new Float64Array(width * height), totals = new Float64Array(width * (height + 1)), sums = new Float64Array(width + 1);
  for (let y = 0; y < height; y++) {
    const start = y * width;
    for (let x = 0; x < width; x++) sums[x + 1] = sums[x] + data[start + x];
    for (let x = 0; x < width; x++) {
      const first = Math.max(x - columns, 0), last = Math.min(x + columns + 1, width);
      totals[start + width + x] = totals[start + x] + (sums[last] - sums[first]) / (last - first);
    }
  }
  for (let y = 0; y < height; y++) {
    const first = Math.max(y - rows, 0), last = Math.min(y + rows + 1, height);
    for (let x = 0; x < width; x++) out[y * width + x] = (totals[last * width + x] - totals[first * width + x]) / (last - first);
  }
  return { width, height, data: out };
}
