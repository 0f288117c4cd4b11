// The series of the active side's study, with thumbnails, and other studies of the same patient.

import { seriesOf, studiesOf, thumbnailUrl } from "./archive.js";
import { T, day, differs, text, values } from "./dicom.js";

const PICTURELESS = new Set(["SR", "PR", "KO", "DOC", "REG", "RTSTRUCT", "RTPLAN", "ECG", "HD", "AU"]);
const $ = (id) => document.getElementById(id);
export const counted = (number, word) => `${number || "?"} ${word}${String(number) === "1" ? "" : word === "series" ? "" : "s"}`;

export class Strip {
  /** `openSeries(pane, series)` and `openStudy(study)` are called for what a reader picks. */
  constructor(openSeries, openStudy) {
    this.openSeries = openSeries;
    this.openStudy = openStudy;
    this.pane = null;
  }

  /** Ask for the series of the pane's study and open its first picture. */
  async load(pane) {
    pane.strip = { turn: pane.turn, series: [], others: [], error: null };
    const mine = pane.strip;
    this.show(pane);
    pane.note("Loading…");
    const uid = text(pane.study, T.study);
    const stale = () => pane.strip !== mine;
    try {
      mine.series = await seriesOf(uid);
      if (stale()) return;
      if (this.pane === pane) this.show(pane); // else the other side is read now: its strip stays
      const first = mine.series.find((one) => !PICTURELESS.has(text(one, T.modality))) ?? mine.series[0];
      if (first) this.open(pane, first);
      else pane.note("This study has no series here.");
    } catch (error) {
      if (!stale()) pane.note(error.message, () => this.load(pane));
      return;
    }
    try {
      mine.others = await studiesOf(pane.study);
    } catch {
      mine.others = []; // a comfort: the list still finds them
    }
    if (!stale() && this.pane === pane) this.show(pane);
  }

  open(pane, series) {
    this.openSeries(pane, series);
    this.mark(pane);
    pane.$("stage").focus({ preventScroll: true });
  }

  step(by) {
    const { pane } = this;
    const found = pane?.strip?.series ?? [];
    const next = found[found.indexOf(pane.series) + by];
    if (next) this.open(pane, next);
  }

  show(pane) {
    this.pane = pane;
    const held = pane.study ? pane.strip : null;
    $("series-list").replaceChildren(...(held?.series ?? []).map((series) => this.entry(pane, series)));
    const others = held?.others ?? [];
    $("others").hidden = !others.length;
    $("other-list").replaceChildren(...others.map((study) => this.other(pane, study)));
    this.mark(pane);
  }

  mark(pane) {
    if (this.pane !== pane) return;
    for (const button of $("series-list").querySelectorAll("button")) {
      if (button.series === pane.series) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  entry(pane, series) {
    const button = Object.assign(document.createElement("button"), { type: "button", series });
    const modality = text(series, T.modality);
    if (!PICTURELESS.has(modality)) button.append(thumbnail(text(pane.study, T.study), text(series, T.series)));
    else button.append(line("div", modality, "no-picture"));
    button.append(line("bdi", text(series, T.seriesDescription) || modality || "Series", "title"),
      line("small", [modality, counted(text(series, T.seriesInstanceCount), "image")].filter(Boolean).join(" · ").replace(/images?$/, PICTURELESS.has(modality) ? "object(s)" : "$&")));
    button.addEventListener("click", () => this.open(pane, series));
    return item(button);
  }

  other(pane, study) {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const why = differs(pane.study, study);
    button.append(line("bdi", [day(text(study, T.studyDate)), values(study, T.modalitiesInStudy).join(" ")].join(" "), "title"),
      line("small", text(study, T.studyDescription)));
    if (why && text(study, T.patientId)) button.append(line("small", `⚠ ${why.sentence}`, "warn"));
    button.addEventListener("click", () => this.openStudy(study));
    return item(button);
  }
}

function item(child) {
  const made = document.createElement("li");
  made.append(child);
  return made;
}

function line(tag, content, className = "") {
  return Object.assign(document.createElement(tag), { textContent: content, className, dir: "auto" });
}

function thumbnail(study, series) {
  const picture = Object.assign(document.createElement("img"), { alt: "", loading: "lazy", draggable: false });
  picture.addEventListener("error", () => picture.replaceWith(line("div", "no preview", "no-picture")), { once: true });
  picture.src = thumbnailUrl(study, series);
  return picture;
}
