// The pictures of one series: fetched ahead of the reader, decoded, kept within bounds. Knows no page.
//
// Grey frames come as stored values, so that windows are computed here on the real pixels. Colour, and what only
// the archive can decode or look up, comes as a picture of 8 bits. When the series is left, `close` ends all.

import { ask, bytesOf, instancePath, renderedPath } from "./archive.js";
import { T, number } from "./dicom.js";
import { greyOf, needsTables, storedValues, windowTold } from "./windowing.js";

const KEPT_BYTES = 288 * 2 ** 20; // a stack of 512 slices of 512 x 512, 16 bits, and some
const AHEAD = 40, BEHIND = 10;
const AT_ONCE = 5; // a browser opens six connections to a host: one is left for searches
const TRIES = 4;
const PASSING = ["gone", "busy"]; // failures of the moment, not of the frame
const RAW = 'multipart/related; type="application/octet-stream"';
const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

export class Frames {
  /** `arrived(place)` is called when a frame is there, or has failed. */
  constructor(pages, arrived) {
    this.pages = pages;
    this.arrived = arrived;
    this.kept = new Map(); // place → frame or failure, the one used last at its end
    this.bytes = 0;
    this.running = new Map(); // place → AbortController
    this.wanted = [];
    this.ending = new AbortController();
  }

  close() {
    this.ending.abort();
    this.wanted = [];
    for (const controller of this.running.values()) controller.abort();
    this.kept.clear();
  }

  /** The frame at a place, or undefined while it is on its way. */
  at(place) {
    const frame = this.kept.get(place);
    if (frame) {
      this.kept.delete(place);
      this.kept.set(place, frame);
    }
    return frame;
  }

  /** Fetch the frame at a place, then those that scrolling on, in `direction`, comes to. */
  want(place, direction = 1) {
    const near = [place];
    for (let step = 1; step <= AHEAD; step += 1) {
      near.push(place + step * direction);
      if (step <= BEHIND) near.push(place - step * direction);
    }
    const reach = new Set(near);
    for (const [one, controller] of this.running) {
      if (reach.has(one)) continue;
      controller.abort();
      this.running.delete(one); // at once: who comes back meanwhile must find it wanted anew
    }
    this.wanted = near.filter((one) => this.pages[one]?.picture && !this.kept.has(one) && !this.running.has(one));
    this.fill();
  }

  /** Forget a failure, so that it is tried again. */
  again(place) {
    this.forget(place);
    this.want(place);
  }

  /** Forget that a frame could not be had at that time; what is wrong with the frame itself stays known. */
  forgive(place) {
    if (PASSING.includes(this.kept.get(place)?.failure?.kind)) this.forget(place);
  }

  forget(place) {
    if (this.kept.get(place)?.failure) this.kept.delete(place);
  }

  fill() {
    while (!this.ending.signal.aborted && this.running.size < AT_ONCE && this.wanted.length) this.fetch(this.wanted.shift());
  }

  async fetch(place) {
    const controller = new AbortController();
    this.running.set(place, controller);
    let frame;
    try {
      frame = await load(this.pages[place], controller.signal);
    } catch (error) {
      frame = controller.signal.aborted ? null : { failure: error, bytes: 0 };
    }
    if (this.running.get(place) === controller) this.running.delete(place);
    if (this.ending.signal.aborted) return; // the reader is elsewhere: a late answer is thrown away
    if (frame && !controller.signal.aborted) {
      this.keep(place, frame);
      this.arrived(place);
    }
    this.fill();
  }

  keep(place, frame) {
    this.kept.set(place, frame);
    this.bytes += frame.bytes;
    for (const [oldest, held] of this.kept) {
      if (this.bytes <= KEPT_BYTES || oldest === place) break;
      this.kept.delete(oldest);
      this.bytes -= held.bytes;
    }
  }
}

const isGrey = (item) => (number(item, T.samples) ?? 1) === 1 && !/PALETTE/.test(item[T.photometric]?.Value?.[0] ?? "");

/** Whether windows are for the archive to apply: it then makes one picture for each. */
export const isServed = (page) => isGrey(page.item) && needsTables(page.item);

async function load(page, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await loadOnce(page, signal);
    } catch (error) {
      // During a failover an answer may be missing once; what is refused for good is not asked for again.
      if (signal.aborted || attempt >= TRIES || !PASSING.includes(error.kind)) throw error;
      await pause(250 * 2 ** attempt, signal);
      if (signal.aborted) throw error;
    }
  }
}

async function loadOnce(page, signal) {
  const { item, frame } = page;
  const width = number(item, T.columns), height = number(item, T.rows);
  if (isGrey(item) && !needsTables(item)) {
    try {
      const grey = greyOf(item, frame);
      const answer = await ask(`${instancePath(page)}/frames/${frame}`, RAW, { signal });
      const pixels = storedValues(await bytesOf(answer), grey, width * height);
      return { width, height, grey, pixels, bytes: pixels.byteLength };
    } catch (error) {
      if (signal.aborted || [...PASSING, "refused"].includes(error.kind)) throw error;
    }
  }
  return rendered(page, null, signal);
}

/** A frame as the archive's own picture, 8 bits a sample, under a window where one is given. */
export async function rendered(page, voi, signal) {
  const answer = await ask(renderedPath(page, voi), "image/png", { signal });
  const picture = await answer.blob();
  const bitmap = await createImageBitmap(picture);
  const served = isGrey(page.item);
  const made = { width: bitmap.width, height: bitmap.height, bitmap, served, bytes: bitmap.width * bitmap.height * 4 };
  return served ? { ...made, told: windowTold(new Uint8Array(await picture.slice(0, 1024).arrayBuffer())) } : made;
}
