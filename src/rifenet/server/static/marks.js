// What the stage draws over a photo while someone paints. `pen` is in pixels of the labels, `scale` what one is on screen.

/** An open polygon, up to the cursor where there is one; its first corner grows once a click there closes it, within `reach` px. */
export function drawCorners(pen, corners, cursor, scale, reach) {
  const closes = corners.length > 2 && cursor && Math.hypot(corners[0][0] - cursor[0], corners[0][1] - cursor[1]) * scale < reach;
  const line = [...corners, ...(cursor ? [closes ? corners[0] : cursor] : [])];
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    pen.beginPath();
    line.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    Object.assign(pen, { strokeStyle: colour, lineWidth: width / scale });
    pen.stroke();
  }
  corners.forEach(([x, y], index) => {
    const first = index === 0 && corners.length > 2;
    Object.assign(pen, { fillStyle: first ? (closes ? "#2dd4bf" : "#fff") : "#fff", strokeStyle: "#000", lineWidth: (first ? 2 : 1) / scale });
    pen.beginPath();
    pen.arc(x, y, (first ? 9 : 5) / scale, 0, 7);
    pen.fill();
    pen.stroke();
  });
}

/** Strokes on the object in its colour, and those beside it in black; white around both, so that they show anywhere. */
export function drawStrokes(pen, strokes, colours, scale) {
  Object.assign(pen, { lineCap: "round", lineJoin: "round" });
  for (const { id, kind, width, points } of strokes) {
    const line = Math.max(width, 4 / scale);
    for (const [colour, wide] of [["#fff", line + 3 / scale], [kind === "object" ? `rgb(${colours[id] ?? [0, 0, 0]})` : "#111", line]]) {
      pen.beginPath();
      pen.moveTo(...points[0]);
      for (const point of points.length > 1 ? points : [points[0]]) pen.lineTo(...point);
      Object.assign(pen, { strokeStyle: colour, lineWidth: wide });
      pen.stroke();
    }
  }
}

/** Boxes [x0, y0, x1, y1] of objects, each with its number. */
export function drawBoxes(pen, boxes, scale) {
  Object.assign(pen, { font: `600 ${13 / scale}px system-ui, sans-serif`, textBaseline: "top" });
  boxes.forEach(([x0, y0, x1, y1], index) => {
    for (const [colour, width] of [["rgb(0 0 0 / 70%)", 3], ["#fff", 1.5]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: width / scale });
      pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    const text = String(index + 1), wide = pen.measureText(text).width + 8 / scale;
    pen.fillStyle = "rgb(0 0 0 / 75%)";
    pen.fillRect(x0, y0, wide, 18 / scale);
    pen.fillStyle = "#fff";
    pen.fillText(text, x0 + 4 / scale, y0 + 3 / scale);
  });
}

export function drawCursor(pen, cursor, radius, scale) {
  for (const [colour, width] of [["rgb(0 0 0 / 70%)", 3], ["#fff", 1.5]]) {
    pen.beginPath();
    pen.arc(...cursor, radius, 0, 7);
    Object.assign(pen, { strokeStyle: colour, lineWidth: width / scale });
    pen.stroke();
  }
}
