// Labels: one byte a pixel, { width, height, data }; 0 is background, 255 is ignored, anything else a class's id.
// Painting returns the rectangle it touched, [x0, y0, x1, y1) within the picture, or null.

export const makeLabels = (width, height) => ({ width, height, data: new Uint8Array(width * height) });

/** Paints a disc. */
export function disc(labels, x, y, radius, value) {
  const box = clip(labels, x - radius, y - radius, x + radius + 1, y + radius + 1);
  if (!box) return null;
  for (let row = box[1]; row < box[3]; row++) {
    for (let column = box[0]; column < box[2]; column++) {
      const dx = column + 0.5 - x, dy = row + 0.5 - y;
      if (dx * dx + dy * dy <= radius * radius) labels.data[row * labels.width + column] = value;
    }
  }
  return box;
}

/** Paints a stroke of discs from one point to the other. */
export function stroke(labels, from, to, radius, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(1, radius / 3)));
  let touched = null;
  for (let step = 0; step <= steps; step++) {
    const share = step / steps;
    const at = [from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share];
    touched = join(touched, disc(labels, ...at, radius, value));
  }
  return touched;
}

/** Fills a polygon of [x, y] corners; crossing edges leave holes (even-odd). */
export function polygon(labels, corners, value) {
  const xs = corners.map((corner) => corner[0]), ys = corners.map((corner) => corner[1]);
  const box = clip(labels, Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1);
  if (!box) return null;
  for (let row = box[1]; row < box[3]; row++) {
    const y = row + 0.5;
    const crossings = [];
    corners.forEach(([x1, y1], index) => {
      const [x2, y2] = corners[(index + 1) % corners.length];
      if (y1 <= y !== y2 <= y) crossings.push(x1 + ((y - y1) / (y2 - y1)) * (x2 - x1));
    });
    crossings.sort((a, b) => a - b);
    for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
      const start = Math.max(box[0], Math.ceil(crossings[pair] - 0.5));
      const end = Math.min(box[2], Math.ceil(crossings[pair + 1] - 0.5));
      if (start < end) labels.data.fill(value, row * labels.width + start, row * labels.width + end);
    }
  }
  return box;
}

/** The same labels at another size, by the nearest pixel. */
export function resized(labels, width, height) {
  if (labels.width === width && labels.height === height) return labels;
  const made = makeLabels(width, height);
  const columns = Array.from({ length: width }, (_, x) => Math.min(labels.width - 1, Math.floor(((x + 0.5) * labels.width) / width)));
  for (let y = 0; y < height; y++) {
    const from = Math.min(labels.height - 1, Math.floor(((y + 0.5) * labels.height) / height)) * labels.width;
    for (let x = 0; x < width; x++) made.data[y * width + x] = labels.data[from + columns[x]];
  }
  return made;
}

/** Labels whose values are looked up in `table`; values that it does not have become 0. */
export function renamed(labels, table) {
  const lookup = Uint8Array.from({ length: 256 }, (_, value) => table[value] ?? 0);
  return { ...labels, data: labels.data.map((value) => lookup[value]) };
}

/** Number of pixels of each value. */
export function counts(labels) {
  const found = new Uint32Array(256);
  for (const value of labels.data) found[value]++;
  return found;
}

/**
 * Connected regions around points: 1 where `inside` (of each pixel, not 0 within) can be reached from one of them without
 * leaving it, else 0.
 */
export function reached({ width, height }, inside, points) {
  const found = new Uint8Array(inside.length), todo = [];
  const visit = (at) => {
    if (!inside[at] || found[at]) return;
    found[at] = 1;
    todo.push(at);
  };
  for (const [x, y] of points) {
    const column = Math.floor(x), row = Math.floor(y);
    if (column >= 0 && row >= 0 && column < width && row < height) visit(row * width + column);
  }
  while (todo.length) {
    const at = todo.pop(), column = at % width;
    if (column) visit(at - 1);
    if (column + 1 < width) visit(at + 1);
    if (at >= width) visit(at - width);
    if (at + width < inside.length) visit(at + width);
  }
  return found;
}

/** Points along lines, no more than a pixel apart. */
export function along(lines) {
  return lines.flatMap(({ points }) =>
    points.flatMap(([x, y], index) => {
      const [fromX, fromY] = points[index - 1] ?? [x, y], steps = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY)));
      return Array.from({ length: steps }, (_, step) => [x + ((fromX - x) * step) / steps, y + ((fromY - y) * step) / steps]);
    }),
  );
}

/** Pixels of `box` out of labels, and back. */
export function cut(labels, box) {
  const width = box[2] - box[0];
  const data = new Uint8Array(width * (box[3] - box[1]));
  for (let y = box[1]; y < box[3]; y++) {
    data.set(labels.data.subarray(y * labels.width + box[0], y * labels.width + box[2]), (y - box[1]) * width);
  }
  return data;
}
export function paste(labels, box, data) {
  const width = box[2] - box[0];
  for (let y = box[1]; y < box[3]; y++) {
    labels.data.set(data.subarray((y - box[1]) * width, (y - box[1] + 1) * width), y * labels.width + box[0]);
  }
}

/** Tints an ImageData of the labels' box with the classes' colours, edges at full strength. */
export function tint(labels, box, colours, opacity) {
  const width = box[2] - box[0], height = box[3] - box[1];
  const picture = new ImageData(width, height);
  const { data, width: stride } = labels;
  for (let y = 0, out = 0; y < height; y++) {
    for (let x = 0, at = (y + box[1]) * stride + box[0]; x < width; x++, at++, out += 4) {
      const value = data[at], colour = colours[value];
      if (!colour) continue;
      const edge = data[at - 1] !== value || data[at + 1] !== value || data[at - stride] !== value || data[at + stride] !== value;
      picture.data[out] = colour[0];
      picture.data[out + 1] = colour[1];
      picture.data[out + 2] = colour[2];
      picture.data[out + 3] = edge ? 255 : 255 * opacity;
    }
  }
  return picture;
}

export const whole = (labels) => [0, 0, labels.width, labels.height];

export function join(a, b) {
  if (!a || !b) return a || b;
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

export function clip(labels, x0, y0, x1, y1) {
  const box = [Math.max(0, Math.floor(x0)), Math.max(0, Math.floor(y0)), Math.min(labels.width, Math.ceil(x1)), Math.min(labels.height, Math.ceil(y1))];
  return box[0] < box[2] && box[1] < box[3] ? box : null;
}
