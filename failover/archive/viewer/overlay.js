// The words over a picture. They are of the picture that is drawn, never of one that is still on its way.

import { T, clock, day, number, text } from "./dicom.js";
import { edgeLetters, lateralityOf, slicePosition } from "./geometry.js";

const EDGES = ["top", "right", "bottom", "left"];

export function overlay(pane, page) {
  const put = (name, lines) => { pane.$(name).textContent = lines.filter(Boolean).join("\n"); };
  if (!page) {
    for (const name of ["corner-series", "corner-side", "corner-place", "corner-window", "notice", "probe"]) put(name, []);
    for (const edge of EDGES) put(`edge-${edge}`, []);
    return;
  }
  const { item } = page;
  const { frame, view } = pane.picture;
  put("corner-series", [
    [text(item, T.modality), text(item, T.seriesDescription)].filter(Boolean).join(" · "),
    `Series ${text(item, T.seriesNumber) || "–"} · image ${text(item, T.instanceNumber) || "–"}`,
    [day(text(item, T.contentDate) || text(item, T.seriesDate)), clock(text(item, T.contentTime) || text(item, T.seriesTime))].filter(Boolean).join(" "),
  ]);
  const side = lateralityOf(item);
  put("corner-side", [{ R: "Side: R (right)", L: "Side: L (left)", B: "Both sides" }[side] ?? side, text(item, T.viewPosition) && `View ${text(item, T.viewPosition)}`]);
  const position = slicePosition(item, page.frame), thickness = number(item, T.sliceThickness);
  put("corner-place", [
    `${pane.shownPlace + 1} / ${pane.pages.length}`,
    page.frames > 1 ? `Frame ${page.frame} of ${page.frames}` : "",
    position === null ? "" : `Position ${position.toFixed(1)} mm`,
    thickness === null ? "" : `Thickness ${thickness} mm`,
  ]);
  put("corner-window", [...windowLines(pane, frame), `${Math.round(pane.picture.scale() * 100)} %`, turnedLine(view)]);
  put("notice", noticeLines(item, frame));
  const letters = edgeLetters(item, page.frame, view);
  for (const edge of EDGES) put(`edge-${edge}`, [letters?.[edge] ?? ""]);
  pane.$("canvas").setAttribute("aria-label", `Image ${pane.shownPlace + 1} of ${pane.pages.length}`);
}

function windowLines(pane, frame) {
  const inverted = pane.inverted ? "inverted" : "";
  if (frame.pixels) return [numbersOf(pane.window()), inverted];
  if (!frame.served) return [inverted];
  // The archive's picture: the window that it was made with, which need not be the one that is asked for.
  const { voi, failed } = pane.drawn;
  const own = { lut: "Look-up table of the object", values: `${numbersOf(frame.told)} (all values)`, own: numbersOf(frame.told) }[frame.told?.kind];
  return [failed ? `${numbersOf(failed)} could not be had` : "", voi ? numbersOf(voi) : own ?? "Window of the object", inverted];
}

function numbersOf(voi) {
  if (!voi) return "";
  const digits = Math.abs(voi.width) < 10 ? 2 : 0;
  return `WW ${voi.width.toFixed(digits)}  WL ${voi.centre.toFixed(digits)}`;
}

function turnedLine({ quarters, mirrored }) {
  return [mirrored ? "mirrored" : "", quarters ? `turned ${quarters * 90}°` : ""].filter(Boolean).join(", ");
}

function noticeLines(item, frame) {
  const lossy = text(item, T.lossy) === "01";
  const reduced = frame.served || (frame.bitmap && (number(item, T.bitsStored) ?? 8) > 8);
  const why = [lossy ? "lossy compressed" : "", reduced ? "shown in 8 bits" : ""].filter(Boolean).join(", ");
  return why ? [`Not for primary diagnosis: ${why}`] : [];
}

/** The value under the pointer. */
export function probe(pane, x, y) {
  const { frame } = pane.picture;
  const place = pane.$("probe");
  if (!frame?.pixels) { place.textContent = ""; return; }
  const [px, py] = pane.picture.at(x, y).map(Math.floor);
  if (px < 0 || py < 0 || px >= frame.width || py >= frame.height) { place.textContent = ""; return; }
  const value = frame.pixels[py * frame.width + px] * frame.grey.slope + frame.grey.intercept;
  place.textContent = `${px}, ${py}: ${Number.isInteger(value) ? value : value.toFixed(2)} ${frame.grey.unit}`.trim();
}
