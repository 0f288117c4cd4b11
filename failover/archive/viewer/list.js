// The study list: search, pages, keys. An empty answer says what the archive covers.

import { PAGE, searchStudies, searchesOf } from "./archive.js";
import { T, age, clock, day, localDay, nameGroups, text, values } from "./dicom.js";
import { counted } from "./strip.js";

const $ = (id) => document.getElementById(id);

export class StudyList {
  /** `open(study)` is called for the study that a reader picks. */
  constructor(open) {
    this.open = open;
    this.coverage = "";
    this.turn = 0;
    this.marked = [];
    this.searches = searchesOf({}, new Date());
    const form = $("search");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    form.addEventListener("reset", () => setTimeout(() => { this.between(); this.search(); }));
    form.elements.when.addEventListener("change", () => { this.between(); this.search(); });
    form.elements.ModalitiesInStudy.addEventListener("change", () => this.search());
    $("newer").addEventListener("click", () => this.page(this.offset - PAGE));
    $("older").addEventListener("click", () => this.page(this.offset + PAGE));
    $("study-list").addEventListener("keydown", (event) => this.key(event));
    form.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" && event.target.matches("input[type=search]")) $("study-list").querySelector("button")?.focus();
    });
  }

  between() {
    $("between").hidden = $("search").elements.when.value !== "between";
  }

  search() {
    this.searches = searchesOf(Object.fromEntries(new FormData($("search"))), new Date());
    return this.page(0);
  }

  async page(offset) {
    const turn = (this.turn += 1);
    this.asking?.abort();
    this.asking = new AbortController();
    this.offset = Math.max(0, offset);
    this.note("Searching…");
    clearTimeout(this.timer);
    try {
      const { studies, more } = await searchStudies(this.searches, this.offset, this.asking.signal);
      if (turn !== this.turn) return;
      this.show(studies, more);
    } catch (error) {
      if (turn !== this.turn || error.name === "AbortError") return;
      this.show([], false);
      this.failed(error);
    }
  }

  show(studies, more) {
    $("study-list").replaceChildren(...studies.map((study) => this.entry(study)));
    this.mark(this.marked);
    $("study-list").parentElement.scrollTop = 0;
    $("paging").hidden = !more && !this.offset;
    $("newer").disabled = !this.offset;
    $("older").disabled = !more;
    $("range").textContent = studies.length ? `${this.offset + 1} – ${this.offset + studies.length}` : "";
    if (studies.length) this.note("");
    else this.note(`No study matches. ${this.missing()}`, "warn");
  }

  missing() {
    return `${this.coverage || "What this archive covers is not known"}: not found here does not mean that it does not exist.`;
  }

  failed(error) {
    if (error.kind === "uncovered") {
      this.note(`Not found here. ${this.missing()} The primary, which could know, does not answer at the moment.`, "warn", true);
      return;
    }
    this.note(error.message, "bad", true);
    if (error.retryAfterS || error.kind === "gone") this.timer = setTimeout(() => this.page(this.offset), (error.retryAfterS ?? 5) * 1000);
  }

  note(sentence, className = "", retry = false) {
    const place = $("list-note");
    place.className = className;
    place.textContent = sentence;
    if (!retry) return;
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Try again" });
    button.addEventListener("click", () => this.page(this.offset));
    place.append(" ", button);
  }

  entry(study) {
    const button = Object.assign(document.createElement("button"), { type: "button", study });
    const groups = nameGroups(values(study, T.patientName)[0]);
    const birth = text(study, T.birthDate), on = text(study, T.studyDate);
    const name = line("name", ...(groups.length ? groups : ["(no name)"]));
    const sex = text(study, T.sex), old = age(birth, on);
    button.append(name,
      line("facts", `ID ${text(study, T.patientId) || "none"}`, `born ${day(birth) || "not known"}${old ? `, ${old}` : ""}${sex ? `, ${sex}` : ""}`),
      line("what", `${day(on)} ${clock(text(study, T.studyTime))}`.trim() || "no date", values(study, T.modalitiesInStudy).join(" "), text(study, T.studyDescription)),
      line("facts", `${counted(text(study, T.seriesCount), "series")}, ${counted(text(study, T.instanceCount), "object")}`,
        text(study, T.accession) && `Acc. ${text(study, T.accession)}`));
    if (on === localDay(new Date())) button.classList.add("today");
    button.addEventListener("click", () => this.open(study));
    const made = document.createElement("li");
    made.append(button);
    return made;
  }

  /** Mark the studies that are open. */
  mark(uids) {
    this.marked = uids;
    for (const button of $("study-list").querySelectorAll("button")) {
      if (uids.includes(text(button.study, T.study))) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  key(event) {
    const buttons = [...$("study-list").querySelectorAll("button")];
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (next < 0) $("search").elements.PatientName.focus();
    else buttons[next]?.focus();
  }
}

function line(className, ...parts) {
  const made = Object.assign(document.createElement("span"), { className });
  for (const content of parts) if (content) made.append(Object.assign(document.createElement("bdi"), { textContent: content, dir: "auto" }));
  return made;
}
