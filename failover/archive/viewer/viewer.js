// The page: studies, series, and the banner that never leaves the screen. Names reach the page as text alone.

import { askState, day, metadataOf, searchStudies, seriesOf, slicesOf, text, thumbnailUrl, values } from "./archive.js";
import { Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage();
let chosen = 0; // counts choices, so that a slow answer to an older one is dropped

const PICTURELESS = new Set(["SR", "PR", "KO", "DOC", "REG", "RTSTRUCT", "RTPLAN", "ECG", "HD"]);
const counted = (number, word) => `${number} ${word}${number === "1" ? "" : "s"}`;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, attributes);
  made.append(...children);
  return made;
}

function showBanner(study) {
  $("patient-name").textContent = text(study, "00100010") || "(no name)";
  $("patient-birth").textContent = day(text(study, "00100030")) || "–";
  $("patient-id").textContent = text(study, "00100020") || "–";
  $("study-text").textContent = [day(text(study, "00080020")), text(study, "00081030")].filter(Boolean).join(" · ") || "–";
  document.title = "failover viewer"; // a window title is seen by others: no name in it
}

function current(list, button) {
  for (const other of list.querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
}

function studyEntry(study) {
  const button = element("button", { type: "button" },
    element("span", { className: "name", dir: "auto", textContent: text(study, "00100010") || "(no name)" }),
    element("span", { className: "facts" },
      element("bdi", { textContent: `${day(text(study, "00080020"))}  ${values(study, "00080061").join(" ")}` }),
      element("bdi", { textContent: text(study, "00100020") })),
    element("span", { className: "facts" },
      element("bdi", { textContent: text(study, "00081030") }),
      element("bdi", { textContent: counted(text(study, "00201208"), "instance") })));
  button.addEventListener("click", () => choose(study, button));
  return element("li", {}, button);
}

async function search(event) {
  event?.preventDefault();
  const note = $("list-note");
  note.className = "";
  note.textContent = "Searching…";
  try {
    const found = await searchStudies(Object.fromEntries(new FormData($("search"))));
    $("study-list").replaceChildren(...found.map(studyEntry));
    note.textContent = found.length ? "" : "Nothing in this archive matches.";
    if (found.length === 100) note.textContent = "The newest 100 are shown: narrow the search.";
  } catch (error) {
    $("study-list").replaceChildren();
    note.className = "warn";
    note.textContent = `Not answered: ${error.message}`;
  }
}

async function choose(study, button) {
  const turn = ++chosen;
  current($("study-list"), button);
  showBanner(study);
  stage.show([]);
  stage.note("Loading…");
  $("series-list").replaceChildren();
  try {
    const uid = text(study, "0020000D");
    const found = await seriesOf(uid);
    if (turn !== chosen) return;
    const entries = found.map((series) => seriesEntry(uid, series));
    $("series-list").replaceChildren(...entries);
    entries[0]?.firstChild.click();
  } catch (error) {
    if (turn === chosen) stage.note(`Not answered: ${error.message}`);
  }
}

/** The picture that stands for a series; none for what never has one. */
function thumbnail(study, series, modality) {
  if (PICTURELESS.has(modality)) return [];
  const picture = element("img", { alt: "", loading: "lazy", src: thumbnailUrl(study, series) });
  picture.addEventListener("error", () => picture.remove());
  return [picture];
}

function seriesEntry(study, series) {
  const uid = text(series, "0020000E");
  const button = element("button", { type: "button" }, ...thumbnail(study, uid, text(series, "00080060")),
    element("bdi", { textContent: text(series, "0008103E") || text(series, "00080060") }),
    element("br"),
    element("small", { textContent: `${text(series, "00080060")} · ${text(series, "00201209")}` }));
  button.addEventListener("click", async () => {
    const turn = ++chosen;
    current($("series-list"), button);
    stage.show([]);
    stage.note("Loading…");
    try {
      const metadata = await metadataOf(study, uid);
      if (turn === chosen) stage.show(slicesOf(study, uid, metadata));
    } catch (error) {
      if (turn === chosen) stage.note(`Not answered: ${error.message}`);
    }
  });
  return element("li", {}, button);
}

async function showState() {
  const place = $("state");
  try {
    const state = await askState();
    const parts = [`${state.site}: this is the backup archive. It covers ${state.window.sentence}.`];
    if (state.owed) parts.push(element("b", { textContent: ` ${state.owed} objects are not yet on the primary.` }));
    place.replaceChildren(...parts);
  } catch (error) {
    place.replaceChildren(element("b", { textContent: `The archive does not answer: ${error.message}` }));
  }
}

$("search").addEventListener("submit", search);
await showState();
setInterval(showState, 5000);
await search();
