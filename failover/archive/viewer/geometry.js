// Where a picture lies in the patient and on the screen: letters, position, spacing, turning. Pure.

import { T, described, number, numbers, text, values } from "./dicom.js";

const OPPOSITE = { A: "P", P: "A", R: "L", L: "R", H: "F", F: "H" };
const opposite = (letters) => [...letters].map((one) => OPPOSITE[one] ?? one).join("");
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

/** The letters of a direction in the patient (PS3.3 C.7.6.1.1.1): the strongest first, a second one where it is oblique. */
export function lettersOf([x, y, z]) {
  const parts = [[x, x < 0 ? "R" : "L"], [y, y < 0 ? "A" : "P"], [z, z < 0 ? "F" : "H"]];
  const strong = parts.map(([size, letter]) => [Math.abs(size), letter]).sort((a, b) => b[0] - a[0]);
  return strong.filter(([size], n) => size > (n ? 0.35 : 0.001)).slice(0, 2).map(([, letter]) => letter).join("");
}

/** How a point of the picture comes to the screen: mirrored first, then turned by quarters, clockwise. */
export function matrix({ quarters = 0, mirrored = false }) {
  const m = mirrored ? -1 : 1;
  return [[m, 0, 0, 1], [0, m, -1, 0], [-m, 0, 0, -1], [0, -m, 1, 0]][((quarters % 4) + 4) % 4]; // a b c d as canvas has them
}

/** The letters at the four edges of the screen; null where the object does not tell them. */
export function edgeLetters(item, frame, view) {
  const [a, b, c, d] = matrix(view);
  // The inverse of a matrix that turns and mirrors is its transpose: right and down on the screen, in the picture.
  const right = [a, c], down = [b, d];
  const plane = described(item, frame, T.planeOrientation, T.orientation);
  const axes = numbers(plane, T.orientation, 6);
  let name;
  if (axes) {
    const row = axes.slice(0, 3), column = axes.slice(3);
    name = ([x, y]) => lettersOf(row.map((part, n) => x * part + y * column[n]));
  } else {
    const told = values(item, T.patientOrientation).map(String);
    if (told.length !== 2 || !told.every((one) => /^[APRLHF]{1,3}$/.test(one))) return null;
    name = ([x, y]) => (x ? (x > 0 ? told[0] : opposite(told[0])) : y > 0 ? told[1] : opposite(told[1]));
  }
  const minus = ([x, y]) => [-x, -y];
  return { right: name(right), left: name(minus(right)), bottom: name(down), top: name(minus(down)) };
}

/** Where the slice lies along its own normal, in mm; null where that is not told. */
export function slicePosition(item, frame) {
  const axes = numbers(described(item, frame, T.planeOrientation, T.orientation), T.orientation, 6);
  const at = numbers(described(item, frame, T.planePosition, T.position), T.position, 3);
  if (!axes || !at) return number(item, T.sliceLocation);
  return dot(cross(axes.slice(0, 3), axes.slice(3)), at);
}

/** mm for each pixel, down and across, and what that is worth; null where lengths are in pixels alone. */
export function spacingOf(item, frame) {
  const own = numbers(described(item, frame, T.pixelMeasures, T.spacing), T.spacing, 2);
  const detector = numbers(item, T.imagerSpacing, 2);
  for (const [found, note] of [[own, own && noteOf(item, own, detector)], [detector, "at detector"],
    [numbers(item, T.scannedSpacing, 2), "on the scanned film"]]) {
    if (found && found[0] > 0 && found[1] > 0) return { down: found[0], across: found[1], note };
  }
  return null;
}

const PROJECTED = new Set(["CR", "DX", "MG", "XA", "RF", "IO", "PX"]);

/** What Pixel Spacing is worth (PS3.3 10.7.1.3): of a projection it may be calibrated, or the detector's own. */
function noteOf(item, own, detector) {
  const calibrated = text(item, T.calibration).toLowerCase();
  if (calibrated) return `calibrated (${calibrated})`;
  if (detector) return own.every((one, n) => one === detector[n]) ? "at detector" : "calibrated (how is not told)";
  return PROJECTED.has(text(item, T.modality)) ? "(in which plane is not told)" : "";
}

/** How much higher than wide a pixel is (PS3.3 C.7.6.3.1.7). */
export function pixelAspect(item, frame) {
  const spacing = spacingOf(item, frame);
  if (spacing) return spacing.down / spacing.across;
  const told = numbers(item, T.aspect, 2);
  return told && told[0] > 0 && told[1] > 0 ? told[0] / told[1] : 1;
}

/** The length of a line between two points of the picture, with its unit. */
export function lengthOf(item, frame, [x1, y1], [x2, y2]) {
  const spacing = spacingOf(item, frame);
  if (!spacing) return `${Math.hypot(x2 - x1, y2 - y1).toFixed(1)} px (no spacing in the header)`;
  const mm = Math.hypot((x2 - x1) * spacing.across, (y2 - y1) * spacing.down);
  return `${mm.toFixed(1)} mm${spacing.note ? ` ${spacing.note}` : ""}`;
}

/** Side of the body where the header names one: R, L, or B for both. */
export const lateralityOf = (item) => text(item, T.imageLaterality) || text(item, T.laterality);
