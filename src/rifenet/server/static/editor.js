// The stage: shows a photo with its labels, and paints on them. Coordinates "at" are in pixels of the labels.

import { clip, cut, join, paste, polygon, stroke, tint, whole } from "./labels.js";
import { drawBoxes, drawCorners, drawCursor, drawStrokes } from "./marks.js";

const THIN = 5; // px on screen of a stroke that marks the object or what is not
const MARGIN = 12; // px on screen between the keyboard's cursor and the edge
const CLOSE = 12; // px on screen within which a click closes a polygon

export class Editor {
  /**
   * `act` has painted(photo, box, before, after): pixels of the box have changed; marked(photo, { kind, width, points }): a stroke
   * was drawn that says where the object is ("object") or is not ("background"); cornered(): the polygon has another corner.
   */
  constructor(canvas, act) {
    Object.assign(this, { canvas, act, tool: "object", radius: 14, value: 0, colours: {}, opacity: 0.5, shown: true, boxes: [] });
    Object.assign(this, { photo: null, bitmap: null, corners: [], cursor: null, pointers: new Map(), painting: null, marking: null, pinch: null, corner: null });
    this.context = canvas.getContext("2d");
    this.overlay = document.createElement("canvas");
    new ResizeObserver(() => this.resize()).observe(canvas);
    for (const [name, act] of Object.entries({ pointerdown: this.down, pointermove: this.move, pointerup: this.up, pointercancel: this.up, wheel: this.wheel })) {
      canvas.addEventListener(name, act.bind(this), { passive: false });
    }
    canvas.addEventListener("pointerleave", () => { this.cursor = null; this.draw(); });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.corners.length > 2 && this.close());
  }

  /** Shows a photo; its labels are painted in place. */
  show(photo, bitmap) {
    this.bitmap?.close();
    Object.assign(this, { photo, bitmap, corners: [], corner: null, painting: null, marking: null, cursor: null });
    this.act.cornered();
    if (photo) {
      [this.overlay.width, this.overlay.height] = [photo.labels.width, photo.labels.height];
      this.tintAll();
      this.fit();
    }
    this.draw();
  }

  /** Labels, colours or opacity have changed as a whole. */
  tintAll() {
    if (this.photo) this.refresh(whole(this.photo.labels));
  }

  refresh(box) {
    const { labels } = this.photo;
    const around = clip(labels, box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1);
    if (around) this.overlay.getContext("2d").putImageData(tint(labels, around, this.colours, this.opacity), around[0], around[1]);
    this.draw();
  }

  // View: pixels on screen = at * scale + offset.

  resize() {
    const fitted = this.fitted;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    this.ratio = ratio;
    if (fitted) this.fit();
    this.draw();
  }

  fit() {
    if (!this.photo) return;
    const { width, height } = this.photo.labels, { clientWidth, clientHeight } = this.canvas;
    this.scale = Math.min((clientWidth - 24) / width, (clientHeight - 24) / height, 4);
    this.offset = [(clientWidth - width * this.scale) / 2, (clientHeight - height * this.scale) / 2];
    this.fitted = true;
    this.draw();
  }

  /** Zooms by a factor; the point [x, y] on screen stays where it is. */
  zoom(factor, point = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]) {
    if (!this.photo) return;
    const scale = Math.min(40, Math.max(0.05, this.scale * factor));
    this.offset = this.offset.map((offset, axis) => point[axis] - ((point[axis] - offset) * scale) / this.scale);
    Object.assign(this, { scale, fitted: false });
    this.draw();
  }

  pan(dx, dy) {
    this.offset = [this.offset[0] + dx, this.offset[1] + dy];
    this.fitted = false;
    this.draw();
  }

  /** Pans until a place of the labels is in view, a little off the edge. */
  reveal(at) {
    const size = [this.canvas.clientWidth, this.canvas.clientHeight];
    const [dx, dy] = at.map((value, axis) => {
      const point = value * this.scale + this.offset[axis], margin = Math.min(MARGIN, size[axis] / 2);
      return Math.min(size[axis] - margin, Math.max(margin, point)) - point;
    });
    if (dx || dy) this.pan(dx, dy);
    this.draw();
  }

  at(point) {
    return point.map((value, axis) => (value - this.offset[axis]) / this.scale);
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawNow();
    });
  }

  drawNow() {
    const { context: pen, ratio = 1 } = this;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.photo) return;
    const { width, height } = this.photo.labels, { scale, offset } = this;
    pen.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * offset[0], ratio * offset[1]);
    pen.imageSmoothingEnabled = scale < 3;
    pen.drawImage(this.bitmap, 0, 0, width, height);
    if (this.shown) pen.drawImage(this.overlay, 0, 0);
    if (this.shown && this.boxes.length) drawBoxes(pen, this.boxes, scale);
    if (this.isSmart || this.marking) drawStrokes(pen, [...(this.photo.strokes ?? []).filter(({ id }) => id === this.value), ...(this.marking ? [this.marking] : [])], this.colours, scale);
    if (this.corners.length) drawCorners(pen, this.corners, this.cursor, scale, CLOSE);
    if (this.cursor && this.tool !== "pan") drawCursor(pen, this.cursor, this.tool === "polygon" ? 4 / scale : this.isSmart ? THIN / 2 / scale : this.radius, scale);
  }

  // Painting

  get paint() {
    return this.tool === "eraser" ? 0 : this.value;
  }

  /** Whether strokes mark the object, and do not paint it. */
  get isSmart() {
    return this.tool === "object" || this.tool === "background";
  }

  /** Whether a stroke or a polygon is begun on a photo and not ended. */
  isWorkingOn(photo) {
    return photo === this.photo && Boolean(this.painting || this.marking || this.corner || this.corners.length);
  }

  get canPaint() {
    return Boolean(this.photo) && this.tool !== "pan" && (this.tool === "eraser" || this.value > 0);
  }

  /** Begins a stroke; `kind` is that of one which marks, or null for one which paints. */
  begin(at, kind = this.isSmart ? this.tool : null) {
    if (kind) this.marking = { id: this.value, kind, width: THIN / this.scale, points: [at] };
    else this.beginPainting(at);
  }

  beginPainting(at) {
    this.painting = { before: this.photo.labels.data.slice(), box: null, last: at };
    this.paintTo(at);
  }

  strokeTo(at) {
    if (this.marking) {
      const last = this.marking.points.at(-1);
      if (Math.hypot(at[0] - last[0], at[1] - last[1]) * this.scale >= 2) this.marking.points.push(at);
      this.draw();
    } else this.paintTo(at);
  }

  paintTo(at) {
    const touched = stroke(this.photo.labels, this.painting.last, at, this.radius, this.paint);
    this.painting.last = at;
    this.painting.box = join(this.painting.box, touched);
    if (touched) this.refresh(touched);
  }

  /** Ends a stroke: as a step of the history, or undone. */
  end(keep = true) {
    if (this.marking) {
      const { marking, photo } = this;
      this.marking = null;
      if (keep) this.act.marked(photo, marking);
      return this.draw();
    }
    const { before, box } = this.painting;
    this.painting = null;
    if (!box) return;
    const old = cut({ ...this.photo.labels, data: before }, box);
    if (keep) this.record(box, old);
    else {
      paste(this.photo.labels, box, old);
      this.refresh(box);
    }
  }

  record(box, before) {
    const after = cut(this.photo.labels, box);
    if (after.some((value, index) => value !== before[index])) this.act.painted(this.photo, box, before, after);
  }

  addCorner(at) {
    const [first] = this.corners;
    if (this.corners.length > 2 && Math.hypot(first[0] - at[0], first[1] - at[1]) * this.scale < CLOSE) this.close();
    else this.corners.push(at);
    this.act.cornered();
    this.draw();
  }

  /** Fills the polygon. */
  close() {
    const { labels } = this.photo;
    if (this.corners.length > 2) {
      const before = labels.data.slice(), box = polygon(labels, this.corners, this.paint);
      if (box) {
        this.refresh(box);
        this.record(box, cut({ ...labels, data: before }, box));
      }
    }
    this.drop();
  }

  /** Drops the polygon. */
  drop() {
    this.corners = [];
    this.act.cornered();
    this.draw();
  }

  /** Takes back the last corner of an open polygon: whether there was one. */
  dropCorner() {
    if (!this.corners.length) return false;
    this.corners.pop();
    this.act.cornered();
    this.draw();
    return true;
  }

  // Pointers: one paints, two move and zoom.

  point(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  down(event) {
    if (!this.photo) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const point = this.point(event);
    this.pointers.set(event.pointerId, point);
    if (this.pointers.size === 2) {
      if (this.painting || this.marking) this.end(false);
      this.corner = null;
      this.pinch = this.spread();
    } else if (this.pointers.size === 1 && this.canPaint && (event.button === 0 || (event.button === 2 && this.isSmart))) {
      if (this.tool === "polygon") this.corner = this.at(point); // set when the pointer goes up: it may become a pinch
      else if (this.isSmart && (event.button === 2 || event.altKey)) this.begin(this.at(point), "background");
      else this.begin(this.at(point));
    }
  }

  move(event) {
    if (!this.photo) return;
    const point = this.point(event), last = this.pointers.get(event.pointerId);
    this.cursor = event.pointerType === "touch" && !this.painting && !this.marking ? null : this.at(point);
    if (last) {
      this.pointers.set(event.pointerId, point);
      if (this.pinch) this.pinchTo(this.spread());
      else if (this.painting || this.marking) {
        const passed = event.getCoalescedEvents?.() ?? [];
        for (const each of passed.length ? passed : [event]) this.strokeTo(this.at(this.point(each)));
      } else if (this.tool === "pan" || event.buttons & 6) this.pan(point[0] - last[0], point[1] - last[1]);
    }
    this.draw();
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.painting || this.marking) this.end(event.type === "pointerup");
    if (this.corner && event.type === "pointerup") this.addCorner(this.corner);
    this.corner = null;
    if (this.pointers.size < 2) this.pinch = null;
  }

  spread() {
    const [a, b] = [...this.pointers.values()];
    return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], width: Math.hypot(a[0] - b[0], a[1] - b[1]) };
  }

  pinchTo(now) {
    this.pan(now.middle[0] - this.pinch.middle[0], now.middle[1] - this.pinch.middle[1]);
    this.zoom(now.width / Math.max(1, this.pinch.width), now.middle);
    this.pinch = now;
  }

  wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.point(event));
  }
}
