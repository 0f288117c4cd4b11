// From stored values to greys: modality LUT, VOI window, presets. Pure. Same rules as the archive's rendering.

import { T, described, number, numbers, text, values } from "./dicom.js";

/** Windows that readers know, in Hounsfield units; only for CT whose values are in HU. */
export const CT_PRESETS = Object.freeze([
  { name: "Soft tissue", centre: 40, width: 400 },
  { name: "Lung", centre: -600, width: 1500 },
  { name: "Bone", centre: 400, width: 1800 },
  { name: "Brain", centre: 40, width: 80 },
  { name: "Subdural", centre: 75, width: 215 },
  { name: "Mediastinum", centre: 50, width: 350 },
  { name: "Liver", centre: 60, width: 160 },
  { name: "CT angiography", centre: 300, width: 700 },
]);

/** How the samples of a grey frame are to be read (PS3.3 C.7.6.3, C.11.1, C.11.2). */
export function greyOf(item, frame) {
  const rescale = described(item, frame, T.pixelTransformation, T.slope);
  const slope = number(rescale, T.slope), intercept = number(rescale, T.intercept);
  const allocated = number(item, T.bitsAllocated) ?? 8;
  const stored = Math.min(allocated, number(item, T.bitsStored) || allocated);
  return {
    allocated, stored,
    high: number(item, T.highBit) ?? stored - 1,
    signed: number(item, T.signed) === 1,
    float: item[T.floatPixels] ? 4 : item[T.doublePixels] ? 8 : 0,
    slope: slope !== null && intercept !== null && slope !== 0 ? slope : 1,
    intercept: slope !== null && intercept !== null && slope !== 0 ? intercept : 0,
    unit: text(item, T.modality) === "CT" && ["", "HU"].includes(text(rescale, T.rescaleType)) && slope ? "HU" : text(rescale, T.rescaleType),
    inverse: isInverse(item),
    padding: number(item, T.padding), paddingLimit: number(item, T.paddingLimit),
  };
}

/** PS3.3 C.11.6.1.2: the presentation LUT shape, where there is one, says it; else MONOCHROME1. */
export function isInverse(item) {
  return text(item, T.lutShape).toUpperCase() === "INVERSE" || text(item, T.photometric).toUpperCase() === "MONOCHROME1";
}

/** The windows that the object itself names, the first one first; none where it names none. */
export function ownWindows(item, frame) {
  const place = described(item, frame, T.frameVoi, T.windowCentre);
  const shape = text(place, T.voiFunction).toUpperCase() || "LINEAR";
  return values(place, T.windowCentre).map((_, n) => ({
    centre: number(place, T.windowCentre, n), width: number(place, T.windowWidth, n), shape,
    name: values(place, T.windowName)[n] ?? "",
  })).filter((one) => one.centre !== null && one.width > 0);
}

/** Whether only the archive can apply what the object asks for: LUTs stand behind links in its header. */
export const needsTables = (item) => values(item, T.modalityLut).length > 0
  || (values(item, T.voiLut).length > 0 && number(item, T.windowWidth) === null);

/** The values that the object's first table takes, as a window (PS3.3 C.11.1.1): count, first, bits; null without one. */
export function tableWindow(item) {
  const [voi, modality] = [values(item, T.voiLut)[0], values(item, T.modalityLut)[0]].map((one) => numbers(one, T.lutDescriptor, 3));
  if (voi) return { centre: voi[1] + (voi[0] || 65536) / 2, width: voi[0] || 65536, shape: "LINEAR" };
  return modality ? { centre: 2 ** (modality[2] - 1), width: 2 ** modality[2], shape: "LINEAR" } : null;
}

/** The window that a PNG of the archive says it was made with (its text chunk stands before the pixels); else null. */
export function windowTold(png) {
  const [, kind, centre, width] = /failover-window\0([a-z]+),([-+.e0-9]+),([-+.e0-9]+)/.exec(String.fromCharCode(...png)) ?? [];
  const found = { centre: Number(centre), width: Number(width), shape: "LINEAR", kind };
  return Number.isFinite(found.centre) && found.width > 0 ? found : null;
}

/** The grey, 0 to 255, of a value under a window (PS3.3 C.11.2.1.2, C.11.2.1.3). */
export function greyAt(value, { centre, width, shape = "LINEAR" }) {
  let scaled;
  if (shape === "SIGMOID") scaled = 255 / (1 + Math.exp((-4 * (value - centre)) / Math.max(width, 1e-6)));
  else if (shape === "LINEAR_EXACT" || width <= 1) scaled = ((value - centre) / Math.max(width, 1e-6) + 0.5) * 255;
  else scaled = ((value - (centre - 0.5)) / (width - 1) + 0.5) * 255;
  return scaled >= 255 ? 255 : scaled > 0 ? Math.floor(scaled) : 0;
}

const opaque = (grey) => (0xff000000 | (grey << 16) | (grey << 8) | grey) >>> 0; // R = G = B: any byte order

/** The colour of each stored value, from the least on, and the least: one look-up for each pixel is left. */
export function greyTable(grey, voi, inverted) {
  const count = 2 ** grey.stored, least = grey.signed ? -(count / 2) : 0;
  const table = new Uint32Array(count), turned = grey.inverse !== inverted;
  for (let n = 0; n < count; n += 1) {
    const shade = greyAt((n + least) * grey.slope + grey.intercept, voi);
    table[n] = opaque(turned ? 255 - shade : shade);
  }
  return { table, least };
}

/** Fill `out` (one 32-bit colour a pixel) with the greys of `pixels`. */
export function paint(out, pixels, grey, voi, inverted, kept) {
  if (grey.float || grey.stored > 16) {
    const turned = grey.inverse !== inverted;
    for (let i = 0; i < out.length; i += 1) {
      const shade = greyAt(pixels[i] * grey.slope + grey.intercept, voi);
      out[i] = opaque(turned ? 255 - shade : shade);
    }
    return null;
  }
  const key = [grey.stored, grey.signed, grey.slope, grey.intercept, grey.inverse, inverted, voi.centre, voi.width, voi.shape].join();
  const made = kept?.key === key ? kept : { key, ...greyTable(grey, voi, inverted) };
  const { table, least } = made;
  for (let i = 0; i < out.length; i += 1) out[i] = table[pixels[i] - least];
  return made;
}

/** A frame's bytes as an array of stored values: little endian, bits above and below the stored ones taken off. */
export function storedValues(bytes, grey, count) {
  if (grey.allocated === 1) {
    const found = new Uint8Array(count);
    for (let i = 0; i < count; i += 1) found[i] = (bytes[i >> 3] >> (i & 7)) & 1;
    return found;
  }
  const size = grey.float || grey.allocated / 8;
  if (bytes.byteLength < count * size) throw new Error("the frame is shorter than its header says");
  const buffer = bytes.byteOffset % size ? bytes.slice().buffer : bytes.buffer;
  const offset = bytes.byteOffset % size ? 0 : bytes.byteOffset;
  if (grey.float) return grey.float === 8 ? new Float64Array(buffer, offset, count) : new Float32Array(buffer, offset, count);
  const kinds = { 1: [Uint8Array, Int8Array], 2: [Uint16Array, Int16Array], 4: [Uint32Array, Int32Array] }[size];
  if (!kinds) throw new Error("bits allocated that no image has");
  const raw = new kinds[grey.signed ? 1 : 0](buffer, offset, count);
  const low = grey.high + 1 - grey.stored, above = grey.allocated - 1 - grey.high;
  if (low === 0 && above === 0) return raw;
  const found = new kinds[grey.signed ? 1 : 0](count);
  const up = 32 - grey.high - 1, down = 32 - grey.stored; // PS3.5 8.1.1: shift the stored bits out and back
  for (let i = 0; i < count; i += 1) found[i] = grey.signed ? (raw[i] << up) >> down : (raw[i] << up) >>> down;
  return found;
}

/** A window over all values, padding left out (PS3.3 C.7.5.1.1.2). */
export function fullWindow(pixels, grey) {
  const ends = grey.padding === null ? null : [grey.padding, grey.paddingLimit ?? grey.padding].sort((a, b) => a - b);
  let least = Infinity, most = -Infinity;
  for (let i = 0; i < pixels.length; i += 1) {
    const value = pixels[i];
    if (!Number.isFinite(value) || (ends && value >= ends[0] && value <= ends[1])) continue;
    if (value < least) least = value;
    if (value > most) most = value;
  }
  if (least > most) return { centre: 0.5, width: 1, shape: "LINEAR_EXACT" };
  const [a, b] = [least * grey.slope + grey.intercept, most * grey.slope + grey.intercept];
  return { centre: (a + b) / 2, width: Math.max(Math.abs(b - a), 1), shape: "LINEAR_EXACT" };
}
