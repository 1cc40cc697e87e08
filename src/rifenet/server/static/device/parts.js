// Connected parts of a mask, and the objects among them: what `rifenet.segmenting.instances` counts, but for touching objects,
// which only the server takes apart.

const COMPACT = 0.85; // touching objects are told apart if three quarters of the examples' objects are at least this compact
const MOST_COMPACT = 0.95; // that a part must be at most to be one object; the edges of masks are never quite smooth
const LARGER = 1.5; // times the larger ones of the examples' objects: a part of this area is more than one object
const PIECE = 0.5; // of the area of the smaller ones of the examples' objects: a cut makes no piece below it
const SPECK = 0.15; // of the same area: what is smaller is no object, and a hole below it is no hole
const FEWEST = 3; // objects in the examples that tell how large objects get
const SIDE = 512; // pixels: longer parts are judged in a smaller copy

const NEAR = [[-1, 0], [0, -1]]; // neighbours that come before a pixel, as [column, row]
const AROUND = [...NEAR, [-1, -1], [1, -1]];

/** Parts of a mask: { labels, count }, 0 outside, 1 to `count` in the order of their first pixels. Pixels that meet at a corner are neighbours where `corners`. */
export function connected({ width, height, data: inside }, corners = false) {
  const labels = new Int32Array(width * height), parents = [0], before = corners ? AROUND : NEAR;
  const root = (label) => {
    while (parents[label] !== label) label = parents[label] = parents[parents[label]];
    return label;
  };
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (!inside[at]) continue;
      let label = 0;
      for (const [dx, dy] of before) {
        if (x + dx < 0 || x + dx >= width || y + dy < 0) continue;
        const other = labels[at + dy * width + dx];
        if (!other) continue;
        const found = root(other);
        if (!label) label = found;
        else if (found !== label) parents[Math.max(found, label)] = label = Math.min(found, label);
      }
      if (!label) label = parents.push(parents.length) - 1;
      labels[at] = label;
    }
  }
  const numbers = new Int32Array(parents.length);
  let count = 0;
  for (let label = 1; label < parents.length; label++) numbers[label] = parents[label] === label ? ++count : numbers[root(label)];
  for (let at = 0; at < labels.length; at++) labels[at] = numbers[labels[at]];
  return { labels, count };
}

/** The q-quantile of numbers, between neighbours as their distance says. */
function quantile(numbers, q) {
  const sorted = [...numbers].sort((a, b) => a - b), place = q * (sorted.length - 1), low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** What objects in one photo look like, by the examples' { area, solidity }; areas in pixels. */
export function priorOf(shapes, longerSide) {
  if (!shapes.length) return { solidity: 0, small: 0, large: Infinity, cuts: false };
  const areas = shapes.map(({ area }) => area * longerSide ** 2), solidities = shapes.map(({ solidity }) => solidity);
  return {
    solidity: Math.min(quantile(solidities, 0.5), MOST_COMPACT),
    small: quantile(areas, 0.1),
    large: shapes.length >= FEWEST ? LARGER * quantile(areas, 0.9) : Infinity,
    cuts: quantile(solidities, 0.25) >= COMPACT,
  };
}

/** Removes specks from the mask { width, height, data } of classes [{ shapes }], and then fills their small holes. */
export function clean(mask, classes) {
  const { width, height, data } = mask, longer = Math.max(width, height);
  const parts = (index, corners) => connected({ width, height, data: data.map((value) => Number((value === index + 1) !== corners)) }, corners);
  const sizes = ({ labels, count }) => {
    const found = new Uint32Array(count + 1);
    for (const label of labels) found[label]++;
    return found;
  };
  classes.forEach(({ shapes }, index) => {
    const own = parts(index, false), areas = sizes(own), least = SPECK * priorOf(shapes, longer).small;
    for (let at = 0; at < data.length; at++) if (own.labels[at] && areas[own.labels[at]] < least) data[at] = 0;
  });
  classes.forEach(({ shapes }, index) => {
    const outside = parts(index, true), areas = sizes(outside), least = SPECK * priorOf(shapes, longer).small;
    const open = new Set();
    for (let x = 0; x < width; x++) open.add(outside.labels[x]).add(outside.labels[(height - 1) * width + x]);
    for (let y = 0; y < height; y++) open.add(outside.labels[y * width]).add(outside.labels[(y + 1) * width - 1]);
    for (let at = 0; at < data.length; at++) {
      const label = outside.labels[at];
      if (label && data[at] === 0 && areas[label] < least && !open.has(label)) data[at] = index + 1;
    }
  });
}

/**
 * Objects of class `value` in a mask, the largest first: [{ box: [x, y, width, height], area, centroid: [x, y], score }]. Null where
 * the class's objects are told apart by their shape and a part may be several. `scoresOf(y)` gives the class's scores of a row.
 */
export function objectsOf({ width, height, data }, value, shapes, scoresOf) {
  const inside = { width, height, data: data.map((each) => Number(each === value)) }, { labels, count } = connected(inside);
  const parts = Array.from({ length: count }, () => ({ area: 0, left: width, right: 0, top: height, below: 0, x: 0, y: 0, score: 0 }));
  for (let y = 0, at = 0; y < height; y++) {
    let scores = null;
    for (let x = 0; x < width; x++, at++) {
      if (!labels[at]) continue;
      scores ??= scoresOf(y);
      const part = parts[labels[at] - 1];
      Object.assign(part, { left: Math.min(part.left, x), right: Math.max(part.right, x + 1), top: Math.min(part.top, y), below: y + 1 });
      part.area += 1;
      part.x += x;
      part.y += y;
      part.score += scores[x];
    }
  }
  const prior = priorOf(shapes, Math.max(width, height)), kept = [];
  for (const [index, part] of parts.entries()) {
    if (part.area < SPECK * prior.small) continue;
    if (prior.cuts && isSeveral(part, index + 1, labels, width, prior)) return null;
    const box = [part.left, part.top, part.right - part.left, part.below - part.top];
    kept.push({ box, area: part.area, centroid: [part.x / part.area + 0.5, part.y / part.area + 0.5], score: part.score / part.area });
  }
  return kept.sort((a, b) => b.area - a.area || a.box[0] - b.box[0] || a.box[1] - b.box[1]);
}

/** Whether the server would try to cut a part: it is not as compact as the examples' objects, or too large for one of them. */
function isSeveral({ left, right, top, below }, label, labels, width, prior) {
  const step = Math.ceil(Math.max(right - left, below - top) / SIDE);
  const small = { width: Math.ceil((right - left) / step), height: Math.ceil((below - top) / step) };
  small.data = new Uint8Array(small.width * small.height);
  let area = 0;
  for (let y = 0, at = 0; y < small.height; y++) {
    for (let x = 0; x < small.width; x++, at++) area += small.data[at] = Number(labels[(top + y * step) * width + left + x * step] === label);
  }
  const filled = withoutHoles(small);
  let whole = 0;
  for (const each of filled.data) whole += each;
  const isOne = whole <= prior.large / step ** 2 && whole / hullArea(filled) >= prior.solidity;
  return !isOne && area >= (2 * PIECE * prior.small) / step ** 2;
}

function withoutHoles({ width, height, data }) {
  const { labels, count } = connected({ width, height, data: data.map((value) => 1 - value) }), open = new Uint8Array(count + 1);
  for (let x = 0; x < width; x++) open[labels[x]] = open[labels[(height - 1) * width + x]] = 1;
  for (let y = 0; y < height; y++) open[labels[y * width]] = open[labels[(y + 1) * width - 1]] = 1;
  return { width, height, data: data.map((value, at) => Number(value || !open[labels[at]])) };
}

/** Area of the convex hull of a part's pixels, by A. M. Andrew's monotone chain (1979). */
function hullArea({ width, height, data }) {
  const corners = [];
  for (let y = 0; y < height; y++) {
    const row = data.subarray(y * width, (y + 1) * width), first = row.indexOf(1);
    if (first < 0) continue;
    const last = row.lastIndexOf(1) + 1;
    corners.push([first, y], [first, y + 1], [last, y], [last, y + 1]);
  }
  corners.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const turn = ([ax, ay], [bx, by], [x, y]) => (bx - ax) * (y - ay) - (by - ay) * (x - ax);
  const chain = (points) => {
    const half = [];
    for (const point of points) {
      while (half.length > 1 && turn(half.at(-2), half.at(-1), point) <= 0) half.pop();
      half.push(point);
    }
    return half.slice(0, -1);
  };
  const outline = [...chain(corners), ...chain([...corners].reverse())];
  return Math.abs(outline.reduce((sum, [x, y], i) => sum + x * outline[(i + 1) % outline.length][1] - outline[(i + 1) % outline.length][0] * y, 0)) / 2;
}
