// Wheel, pointer and keys of one side, turned into what the pane does.

import { probe } from "./overlay.js";

const WHEEL_STEP = 40; // pixels of a trackpad's scrolling for one image; a wheel's notch is always one
const KEYS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 10, PageUp: -10 };

export function follow(pane) {
  const stage = pane.$("stage");
  const fingers = new Map(); // on the stage: pointer → where
  let rest = 0, takeBack = null;
  stage.addEventListener("wheel", (event) => {
    if (!pane.$("document").hidden && pane.pages.length < 2) return; // a report scrolls by itself
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    if (event.ctrlKey) {
      pane.picture.zoomBy(event.deltaY < 0 ? 1.12 : 1 / 1.12, event.clientX - box.left, event.clientY - box.top);
      pane.schedule();
      return;
    }
    const pixels = event.deltaMode ? event.deltaY * WHEEL_STEP : event.deltaY;
    if (Math.abs(pixels) >= WHEEL_STEP) rest = 0;
    rest += pixels;
    const steps = Math.abs(pixels) >= WHEEL_STEP ? Math.sign(pixels) : Math.trunc(rest / WHEEL_STEP);
    if (!steps) return;
    rest = 0;
    pane.playing = false;
    pane.go(pane.place + steps);
    pane.changed(pane);
  }, { passive: false });
  stage.addEventListener("contextmenu", (event) => { if (!event.target.closest(".document")) event.preventDefault(); });
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" && !event.target.closest("button, .document")) fingers.set(event.pointerId, event);
    if (fingers.size < 2) takeBack = begin(pane, stage, event);
    else {
      takeBack?.(); // the second finger says that the first one meant no drag
      takeBack = null;
      stage.setPointerCapture(event.pointerId);
    }
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    if (fingers.size === 2 && fingers.has(event.pointerId)) {
      const before = span(fingers, box);
      fingers.set(event.pointerId, event);
      pinch(pane, before, span(fingers, box));
      return;
    }
    probe(pane, event.clientX - box.left, event.clientY - box.top);
  });
  stage.addEventListener("pointerleave", () => { pane.$("probe").textContent = ""; });
}

/** Where two fingers are: how far apart, and the middle between them on the stage. */
function span(fingers, box) {
  const [a, b] = [...fingers.values()];
  return { apart: Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)),
    x: (a.clientX + b.clientX) / 2 - box.left, y: (a.clientY + b.clientY) / 2 - box.top };
}

function pinch(pane, before, after) {
  const { view } = pane.picture;
  Object.assign(view, { x: view.x + after.x - before.x, y: view.y + after.y - before.y });
  pane.picture.zoomBy(after.apart / before.apart, after.x, after.y);
  pane.schedule();
}

/** What a drag means: the right button zooms, the middle one or Shift moves, the left one does what the tool says. */
function toolOf(pane, event) {
  if (event.button === 2) return "zoom";
  if (event.button === 1 || event.shiftKey) return "move";
  return pane.tool;
}

/** Follow a drag to its end; return what takes it back, null: it is none. */
function begin(pane, stage, down) {
  if (!pane.picture.frame || down.target.closest("button, .document")) return null;
  const box = stage.getBoundingClientRect();
  const tool = toolOf(pane, down);
  const { picture, turn, shownPlace: place } = pane; // what is seen is meant, not what is on its way
  const first = pane.place;
  const grey = picture.frame.pixels || picture.frame.served;
  const from = { voi: pane.window(), x: picture.view.x, y: picture.view.y, zoom: picture.view.zoom, at: picture.at(down.clientX - box.left, down.clientY - box.top) };
  const { voi } = pane, linesBefore = pane.lines.get(place) ?? [];
  const line = [from.at, from.at];
  if (tool === "measure") pane.lines.set(place, [...(pane.lines.get(place) ?? []), line]);
  let lastY = down.clientY;
  const acts = {
    window: (dx, dy) => {
      if (!grey) return;
      const step = Math.max(0.002, from.voi.width / 400);
      pane.setWindow({ ...from.voi, centre: from.voi.centre + dy * step, width: Math.max(step, from.voi.width + dx * step) });
    },
    move: (dx, dy) => Object.assign(picture.view, { x: from.x + dx, y: from.y + dy }),
    zoom: (dx, dy, event) => {
      picture.zoomBy(1.008 ** (lastY - event.clientY), down.clientX - box.left, down.clientY - box.top);
      lastY = event.clientY;
    },
    scroll: (dx, dy) => pane.go(first + Math.trunc(dy / Math.max(2, Math.min(16, stage.clientHeight / pane.pages.length)))),
    measure: (dx, dy, event) => {
      if (pane.shownPlace === place) line[1] = picture.at(event.clientX - box.left, event.clientY - box.top);
    },
  };
  stage.setPointerCapture(down.pointerId);
  const ending = new AbortController();
  stage.addEventListener("pointermove", (event) => {
    if (turn !== pane.turn) return ending.abort(); // another series came under the pointer
    acts[tool](event.clientX - down.clientX, event.clientY - down.clientY, event);
    pane.schedule();
  }, { signal: ending.signal });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => {
      ending.abort();
      if (tool === "measure" && Math.hypot(line[0][0] - line[1][0], line[0][1] - line[1][1]) < 1) {
        pane.lines.set(place, (pane.lines.get(place) ?? []).filter((one) => one !== line)); // a click, no line
        pane.schedule();
      }
      pane.changed(pane);
    }, { signal: ending.signal });
  }
  return () => {
    ending.abort();
    if (turn !== pane.turn) return;
    Object.assign(picture.view, { x: from.x, y: from.y, zoom: from.zoom });
    pane.lines.set(place, linesBefore);
    pane.setWindow(voi);
    if (tool === "scroll") pane.go(first);
  };
}

/** Whether the key was one of the pane's. */
export function keyOf(pane, key) {
  if (key in KEYS) pane.go(pane.place + KEYS[key]);
  else if (key === "Home") pane.go(0);
  else if (key === "End") pane.go(pane.pages.length - 1);
  else return false;
  return true;
}
