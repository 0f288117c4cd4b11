// One frame on a canvas: zoom, moving, turning, lines that are measured. Knows frames, not where they come from.

import { lengthOf, matrix, pixelAspect } from "./geometry.js";
import { paint } from "./windowing.js";

const LEAST_ZOOM = 0.2, MOST_SCALE = 40; // of the fitted picture; screen pixels for each of the picture's
export const FITTED = Object.freeze({ zoom: 1, x: 0, y: 0, quarters: 0, mirrored: false });

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.buffer = document.createElement("canvas"); // the frame with its window applied, at its own size
    this.view = { ...FITTED };
    this.clear();
  }

  /** Take away all that is seen, at once. */
  clear() {
    this.page = null;
    this.frame = null;
    this.bitmap = null;
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.buffer.width = this.buffer.height = 1;
    this.pixels = null;
    this.table = null;
  }

  /** Show a frame; `bitmap`, where there is one, is its picture made by the archive for the window in use. */
  set(page, frame, voi, inverted, bitmap = frame.bitmap) {
    this.page = page;
    this.frame = frame;
    this.inverted = inverted;
    this.bitmap = bitmap ?? null;
    if (!frame.pixels) return;
    if (this.buffer.width !== frame.width || this.buffer.height !== frame.height || !this.pixels) {
      this.buffer.width = frame.width;
      this.buffer.height = frame.height;
      this.pixels = new ImageData(frame.width, frame.height);
      this.colours = new Uint32Array(this.pixels.data.buffer);
    }
    this.table = paint(this.colours, frame.pixels, frame.grey, voi, inverted, this.table);
    this.buffer.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  /** Size of the stage in CSS pixels, and the canvas brought to it. */
  size() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    return { width, height, ratio };
  }

  fit() {
    const { width, height } = this.size();
    const aspect = pixelAspect(this.page.item, this.page.frame);
    const sides = [this.frame.width, this.frame.height * aspect];
    if (this.view.quarters % 2) sides.reverse();
    return { scale: Math.min(width / sides[0], height / sides[1]) || 1, aspect };
  }

  /** Screen pixels for each pixel of the picture. */
  scale() {
    return this.frame ? this.fit().scale * this.view.zoom * (window.devicePixelRatio || 1) : 1;
  }

  transform() {
    const { width, height } = this.size();
    const { scale, aspect } = this.fit();
    const s = scale * this.view.zoom;
    return new DOMMatrix([...matrix(this.view), width / 2 + this.view.x, height / 2 + this.view.y])
      .scale(s, s * aspect).translate(-this.frame.width / 2, -this.frame.height / 2);
  }

  /** A point of the stage as one of the picture. */
  at(x, y) {
    const point = this.transform().inverse().transformPoint(new DOMPoint(x, y));
    return [point.x, point.y];
  }

  zoomBy(factor, x, y) {
    if (!this.frame) return;
    const fitted = this.fit().scale * (window.devicePixelRatio || 1);
    const zoom = Math.min(Math.max(this.view.zoom * factor, LEAST_ZOOM), Math.max(1, MOST_SCALE / fitted));
    const { width, height } = this.size();
    const [dx, dy] = x === undefined ? [0, 0] : [x - width / 2 - this.view.x, y - height / 2 - this.view.y];
    const grown = zoom / this.view.zoom;
    Object.assign(this.view, { zoom, x: this.view.x + dx * (1 - grown), y: this.view.y + dy * (1 - grown) });
  }

  /** One pixel of the picture on one of the screen. */
  trueSize() {
    Object.assign(this.view, { x: 0, y: 0, zoom: 1 });
    this.view.zoom = 1 / this.scale();
  }

  draw(lines = []) {
    const { ratio } = this.size();
    const { context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.frame) return;
    const transform = this.transform();
    context.setTransform(new DOMMatrix().scale(ratio, ratio).multiply(transform));
    const scale = this.scale();
    context.imageSmoothingEnabled = scale < 4; // beyond, single pixels are what is looked at
    context.imageSmoothingQuality = scale < 1 ? "high" : "low";
    if (this.bitmap && this.inverted) context.filter = "invert(1)";
    context.drawImage(this.bitmap ?? this.buffer, 0, 0, this.frame.width, this.frame.height);
    context.filter = "none";
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const line of lines) this.drawLine(transform, line);
  }

  drawLine(transform, [from, to]) {
    const { context } = this;
    const [a, b] = [from, to].map(([x, y]) => transform.transformPoint(new DOMPoint(x, y)));
    for (const [colour, width] of [["#000", 4], ["#ffd866", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(a.x, a.y);
      context.lineTo(b.x, b.y);
      for (const end of [a, b]) {
        context.moveTo(end.x - 5, end.y);
        context.lineTo(end.x + 5, end.y);
        context.moveTo(end.x, end.y - 5);
        context.lineTo(end.x, end.y + 5);
      }
      context.stroke();
    }
    context.font = "600 14px system-ui, sans-serif";
    context.lineWidth = 4;
    context.strokeStyle = "#000";
    context.fillStyle = "#ffd866";
    const label = lengthOf(this.page.item, this.page.frame, from, to);
    context.strokeText(label, b.x + 10, b.y - 8);
    context.fillText(label, b.x + 10, b.y - 8);
  }
}
