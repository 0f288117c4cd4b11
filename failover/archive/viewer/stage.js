// The image: scrolling, window and level, zoom, moving. Knows slices, not studies.

import { pictureUrl, text } from "./archive.js";

const $ = (id) => document.getElementById(id);
const AHEAD = 4; // slices fetched before they are asked for, in each direction

export class Stage {
  constructor() {
    this.slices = [];
    this.place = 0;
    this.voi = null;
    this.view = { zoom: 1, x: 0, y: 0 };
    this.turn = 0; // only the newest picture that was asked for is shown
    const stage = $("stage");
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.drag(event));
    stage.addEventListener("keydown", (event) => this.key(event));
    $("slice").addEventListener("input", (event) => this.go(Number(event.target.value) - 1));
    $("fit").addEventListener("click", () => this.reset());
  }

  show(slices) {
    this.slices = slices;
    this.place = Math.floor((slices.length - 1) / 2);
    $("slice").max = String(Math.max(1, slices.length));
    if (!slices.length) {
      $("image").removeAttribute("src");
      $("corner-top").textContent = $("corner-bottom").textContent = "";
      this.note("This series has no images.");
      return;
    }
    this.reset();
  }

  note(sentence) { $("stage-note").textContent = sentence; }

  reset() {
    this.voi = null;
    this.view = { zoom: 1, x: 0, y: 0 };
    this.place_image();
    this.go(this.place);
  }

  go(place) {
    if (!this.slices.length) return;
    this.place = Math.min(this.slices.length - 1, Math.max(0, place));
    $("slice").value = String(this.place + 1);
    this.draw();
    for (let step = 1; step <= AHEAD; step += 1) {
      for (const near of [this.place + step, this.place - step]) {
        if (this.slices[near]) new Image().src = pictureUrl(this.slices[near], this.voi);
      }
    }
  }

  draw() {
    const slice = this.slices[this.place];
    const turn = ++this.turn;
    const picture = new Image();
    picture.onload = () => {
      if (turn !== this.turn) return;
      $("image").src = picture.src;
      $("image").alt = `Slice ${this.place + 1} of ${this.slices.length}`;
      this.note("");
    };
    picture.onerror = () => {
      if (turn !== this.turn) return;
      $("image").removeAttribute("src"); // an older slice must not pass for this one
      this.note("This image cannot be shown here.");
    };
    picture.src = pictureUrl(slice, this.voi);
    this.label(slice);
  }

  label(slice) {
    const item = slice.item;
    const lossy = text(item, "00282110") === "01" ? "lossy compressed" : "";
    const voi = this.voi ?? this.own(item);
    $("corner-top").textContent = [text(item, "00080060"), text(item, "0008103E"), lossy].filter(Boolean).join("\n");
    $("corner-bottom").textContent = [
      `${this.place + 1} / ${this.slices.length}`,
      voi ? `C ${voi.centre.toFixed(0)}  W ${voi.width.toFixed(0)}` : "",
      `${Math.round(this.view.zoom * 100)} %`,
    ].filter(Boolean).join("\n");
  }

  /** The window that the image itself names, else its whole range of stored values. */
  own(item) {
    const centre = Number(text(item, "00281050")), width = Number(text(item, "00281051"));
    if (item["00281050"]?.Value && width > 0) return { centre, width };
    return null;
  }

  wheel(event) {
    event.preventDefault();
    if (event.ctrlKey) {
      this.view.zoom = Math.min(12, Math.max(0.3, this.view.zoom * (event.deltaY < 0 ? 1.12 : 1 / 1.12)));
      this.place_image();
      if (this.slices.length) this.label(this.slices[this.place]);
    } else {
      this.go(this.place + Math.sign(event.deltaY));
    }
  }

  key(event) {
    const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 10, PageUp: -10 };
    if (event.key in steps) this.go(this.place + steps[event.key]);
    else if (event.key === "Home") this.go(0);
    else if (event.key === "End") this.go(this.slices.length - 1);
    else if (event.key === "r") this.reset();
    else return;
    event.preventDefault();
  }

  drag(down) {
    if (!this.slices.length || down.target.closest("#tools")) return;
    const stage = $("stage");
    stage.focus();
    stage.setPointerCapture(down.pointerId);
    const item = this.slices[this.place].item;
    const bits = Number(text(item, "00280101")) || 8;
    const from = { ...this.view, voi: this.voi ?? this.own(item) ?? { centre: 2 ** (bits - 1), width: 2 ** bits } };
    const moves = down.shiftKey || down.button === 1;
    const colour = Number(text(item, "00280002")) > 1;
    let asked = false;
    const move = (event) => {
      const dx = event.clientX - down.clientX, dy = event.clientY - down.clientY;
      if (moves || colour) {
        this.view = { ...this.view, x: from.x + dx, y: from.y + dy };
        this.place_image();
        return;
      }
      const step = Math.max(0.1, from.voi.width / 300);
      this.voi = { centre: from.voi.centre + dy * step, width: Math.max(1, from.voi.width + dx * step) };
      if (asked) return;
      asked = true; // one picture a frame is enough
      requestAnimationFrame(() => { asked = false; this.draw(); });
    };
    const up = () => {
      stage.removeEventListener("pointermove", move);
      stage.removeEventListener("pointerup", up);
      stage.removeEventListener("pointercancel", up);
    };
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", up);
    stage.addEventListener("pointercancel", up);
  }

  place_image() {
    const { zoom, x, y } = this.view;
    $("image").style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
  }
}
