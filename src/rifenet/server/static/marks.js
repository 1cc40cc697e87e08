// What the stage draws over a photo while someone paints. `pen` is in pixels of the labels, `scale` what one is on screen.

/** An open polygon, up to the cursor where there is one. */
export function drawCorners(pen, corners, cursor, scale) {
  const line = [...corners, ...(cursor ? [cursor] : [])];
  for (const [colour, width] of [["#000", 4], ["#fff", 2]]) {
    pen.beginPath();
    line.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    Object.assign(pen, { strokeStyle: colour, lineWidth: width / scale });
    pen.stroke();
  }
  for (const [x, y] of corners) {
    Object.assign(pen, { fillStyle: "#fff", strokeStyle: "#000", lineWidth: 1 / scale });
    pen.beginPath();
    pen.arc(x, y, 5 / scale, 0, 7);
    pen.fill();
    pen.stroke();
  }
}

export function drawCursor(pen, cursor, radius, scale) {
  for (const [colour, width] of [["rgb(0 0 0 / 70%)", 3], ["#fff", 1.5]]) {
    pen.beginPath();
    pen.arc(...cursor, radius, 0, 7);
    Object.assign(pen, { strokeStyle: colour, lineWidth: width / scale });
    pen.stroke();
  }
}
