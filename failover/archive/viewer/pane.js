// One side of the viewer: whose study it is, which series, which picture, under which window.
//
// The banner and the picture change together or not at all: what is seen is taken away before another study or
// series is asked for, each choice has a number (`turn`), and an answer to an older one is thrown away.

import { metadataOf, pagesOf } from "./archive.js";
import { T, age, day, differs, nameGroups, text, values } from "./dicom.js";
import { card } from "./documents.js";
import { Frames, rendered } from "./frames.js";
import { follow } from "./gestures.js";
import { overlay } from "./overlay.js";
import { FITTED, Picture } from "./picture.js";
import { fullWindow, ownWindows, tableWindow } from "./windowing.js";

export class Pane {
  /** `changed(pane)` is called when something that others show has changed. */
  constructor(root, changed) {
    this.root = root;
    this.changed = changed;
    this.$ = (name) => root.querySelector(`.${name}`);
    this.picture = new Picture(this.$("canvas"));
    this.turn = 0;
    this.tool = "window";
    this.study = this.series = null;
    this.reset();
    this.empty();
    follow(this);
    new ResizeObserver(() => this.schedule()).observe(this.$("stage"));
    this.$("slider").addEventListener("input", (event) => this.go(Number(event.target.value) - 1));
    this.$("retry").addEventListener("click", () => this.retry());
  }

  /** Take away all pictures and words of the series before, now. */
  empty() {
    this.turn += 1;
    this.asking?.abort();
    this.frames?.close();
    this.frames = null;
    this.pages = [];
    this.place = this.shownPlace = 0;
    this.lines = new Map();
    this.auto = this.voi = this.made = this.drawn = null;
    this.playing = false;
    this.picture.clear();
    this.$("document").replaceChildren();
    this.$("document").hidden = true;
    overlay(this, null);
    this.alarm("");
    this.note("");
    this.slider();
  }

  /** Name the patient on this side, before anything of the study is asked for. */
  choose(study) {
    this.empty();
    this.study = study;
    this.series = null;
    this.reset();
    this.root.classList.toggle("has-study", Boolean(study));
    const name = this.$("name");
    if (!study) {
      for (const place of ["birth", "id", "sex", "study-text"]) this.$(place).textContent = "–";
      name.replaceChildren(Object.assign(document.createElement("strong"), { textContent: "No patient selected" }));
      return this.changed(this);
    }
    const groups = nameGroups(values(study, T.patientName)[0]);
    name.replaceChildren(...(groups.length ? groups : ["(no name)"]).map((group, n) => {
      const part = document.createElement(n ? "span" : "strong");
      part.dir = "auto";
      part.textContent = group;
      return part;
    }));
    const birth = text(study, T.birthDate), on = text(study, T.studyDate);
    const old = age(birth, on);
    this.$("birth").textContent = birth ? `${day(birth)}${old ? ` (${old} then)` : ""}` : "not known";
    this.$("id").textContent = text(study, T.patientId) || "none";
    this.$("sex").textContent = { M: "male", F: "female", O: "other" }[text(study, T.sex)] ?? (text(study, T.sex) || "not known");
    this.$("study-text").textContent = [day(on), text(study, T.studyDescription)].filter(Boolean).join(" · ") || "–";
    this.changed(this);
  }

  async open(series) {
    this.empty();
    const turn = this.turn;
    this.series = series;
    this.reset();
    this.asking = new AbortController();
    this.note("Loading…");
    this.changed(this);
    const study = text(this.study, T.study), uid = text(series, T.series);
    try {
      const { items, partial } = await metadataOf(study, uid, this.asking.signal);
      if (turn !== this.turn) return;
      this.arrived(study, uid, items, partial);
    } catch (error) {
      if (turn === this.turn && error.name !== "AbortError") this.note(error.message, () => this.open(series));
    }
    this.changed(this);
  }

  arrived(study, uid, items, partial) {
    const foreign = items.find((item) => text(item, T.study) !== study || text(item, T.series) !== uid);
    const other = items.map((item) => [item, differs(this.study, item)]).filter(([, why]) => why && !/^neither/.test(why.sentence));
    const [item, why] = other.find(([, found]) => found.sure) ?? other[0] ?? [null, null];
    if (foreign || why?.sure) {
      const says = item ? ` The images say: ${text(item, T.patientName) || "no name"}, ID ${text(item, T.patientId) || "none"}.` : "";
      this.alarm(`Not shown: these images are not of the patient named above (${why?.sentence ?? "the study differs"}).${says}`);
      this.note("");
      return;
    }
    const warnings = [];
    if (why) warnings.push(`Check the patient: ${why.sentence}. The images say: ${text(item, T.patientName) || "no name"}, born ${day(text(item, T.birthDate)) || "not known"}.`);
    if (partial) warnings.push("Incomplete: the primary was seen with more images of this study than are here.");
    this.alarm(warnings.join(" "));
    this.pages = pagesOf(study, uid, items);
    if (!this.pages.length) return this.note("This series is empty.");
    const turn = this.turn;
    this.frames = new Frames(this.pages, (place) => { if (turn === this.turn && place === this.place) this.schedule(); });
    this.note("");
    this.go(this.pages.length > 1 && !(this.pages[0].frames > 1) ? Math.floor((this.pages.length - 1) / 2) : 0);
  }

  retry() {
    const act = this.retrying;
    this.note("");
    act?.();
  }

  note(sentence, retrying = null) {
    this.retrying = retrying;
    this.$("note-text").textContent = sentence;
    this.$("retry").hidden = !retrying;
  }

  alarm(sentence) {
    this.$("alarm").textContent = sentence;
    this.$("alarm").hidden = !sentence;
  }

  get page() { return this.pages[this.place]; }

  go(place) {
    if (!this.pages.length) return;
    const next = Math.min(this.pages.length - 1, Math.max(0, place));
    const direction = Math.sign(next - this.place) || 1;
    if (next !== this.place) this.frames.forgive(next);
    this.place = next;
    this.frames.want(next, direction);
    this.slider();
    this.schedule();
  }

  slider() {
    const slider = this.$("slider");
    slider.max = String(Math.max(1, this.pages.length));
    slider.value = String(this.place + 1);
    slider.disabled = this.pages.length < 2;
    this.$("count").textContent = this.pages.length ? `${this.place + 1} / ${this.pages.length}` : "";
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  /** Bring what is there of the wanted picture to the screen; until it is there, the one before stays, with its own words. */
  draw() {
    const { page } = this;
    if (!page) return;
    if (!page.picture) return this.showDocument(page);
    this.$("document").hidden = true;
    const frame = this.frames.at(this.place);
    if (!frame) {
      if (!this.picture.frame) this.note("Loading…");
      this.picture.draw(this.lines.get(this.shownPlace));
      return;
    }
    if (frame.failure) {
      this.picture.clear(); // an older picture must not pass for this one
      overlay(this, null);
      const place = this.shownPlace = this.place; // its failure is what is seen: playing goes on behind it
      this.note(`This image cannot be shown here. ${frame.failure.message}`, () => {
        this.frames?.again(place);
        this.schedule();
      });
      return;
    }
    this.note("");
    this.shownPlace = this.place;
    this.auto ??= frame.pixels ? fullWindow(frame.pixels, frame.grey) : null;
    this.drawn = this.served(page, frame);
    this.picture.set(page, frame, this.window(), this.inverted, this.drawn.bitmap);
    this.picture.draw(this.lines.get(this.place));
    overlay(this, page);
  }

  showDocument(page) {
    this.picture.clear();
    overlay(this, null);
    this.note("");
    this.shownPlace = this.place;
    if (this.documentOf === page && !this.$("document").hidden) return;
    this.documentOf = page;
    this.$("document").replaceChildren(card(page));
    this.$("document").hidden = false;
  }

  /** The window of the picture that is seen: the reader's, else the object's own, else all values. */
  window() {
    const page = this.pages[this.shownPlace];
    return this.voi ?? ownWindows(page.item, page.frame)[0] ?? this.frames.at(this.shownPlace)?.told ?? this.auto ?? tableWindow(page.item) ?? { centre: 128, width: 256 };
  }

  setWindow(voi) {
    this.voi = voi;
    this.schedule();
  }

  fullRange() {
    const frame = this.frames?.at(this.place);
    if (frame?.pixels) this.setWindow(fullWindow(frame.pixels, frame.grey));
  }

  /** The picture to draw and the window that it was made with (null: the object's own). Where windows cannot be
   * computed here, the archive makes one for the reader's; until it is there, what is seen stays, with its own words. */
  served(page, frame) {
    const own = { page, bitmap: frame.bitmap, voi: null };
    if (!frame.served || !this.voi) return own;
    const { voi, turn } = this;
    const key = [this.place, voi.centre, voi.width, voi.shape].join();
    if (this.made?.key === key) return this.made;
    if (!this.serving) {
      this.serving = true;
      rendered(page, voi, this.asking.signal).then(({ bitmap }) => ({ page, bitmap, voi, key }), () => ({ ...own, failed: voi, key }))
        .then((made) => { if (turn === this.turn) this.made = made; })
        .finally(() => { this.serving = false; this.schedule(); });
    }
    return this.drawn?.page === page ? this.drawn : own;
  }

  reset() {
    this.voi = null;
    this.inverted = false;
    this.picture.view = { ...FITTED };
    this.lines = new Map();
    this.schedule();
  }

  turnBy(quarters) {
    this.picture.view.quarters = (this.picture.view.quarters + quarters + 4) % 4;
    this.schedule();
  }

  /** Mirror left and right as they are on the screen. */
  mirror() {
    const { view } = this.picture;
    Object.assign(view, { mirrored: !view.mirrored, quarters: (4 - view.quarters) % 4, x: -view.x });
    this.schedule();
  }
}
