// The page: its sides, tools and keys, and what is shown all the time. Names reach the page as text alone.

import { answeredBy, askState, whoAnswers } from "./archive.js";
import { T, differs, frameTime, longDay, text } from "./dicom.js";
import { keyOf } from "./gestures.js";
import { Pane } from "./pane.js";
import { offer } from "./saving.js";
import { Strip } from "./strip.js";
import { StudyList } from "./list.js";
import { CT_PRESETS, greyOf, ownWindows } from "./windowing.js";

const STATE_EVERY_MS = 5000;
const ROUTE_EVERY_MS = 15000;
const $ = (id) => document.getElementById(id);
const panes = [];
let active = null;

function addPane() {
  const root = $("pane").content.cloneNode(true).firstElementChild;
  root.setAttribute("aria-label", panes.length ? "Second side" : "First side");
  $("panes").append(root);
  const pane = new Pane(root, changed);
  for (const event of ["pointerdown", "focusin"]) root.addEventListener(event, () => activate(pane), { capture: true });
  panes.push(pane);
  return pane;
}

function activate(pane) {
  if (active === pane) return;
  active = pane;
  for (const one of panes) one.root.toggleAttribute("data-active", one === pane);
  changed(pane);
  strip.show(pane);
}

/** Bring what stands around the sides in line with them. */
function changed(pane) {
  compareBanners();
  if (pane !== active) return;
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === pane.tool));
  press("invert", pane.inverted);
  press("play", pane.playing);
  document.querySelector("[data-act=save]").disabled = !pane.study;
  document.querySelector("[data-act=play]").textContent = pane.playing ? "■ Stop" : "▶ Play";
  presets(pane);
}

const press = (act, on) => document.querySelector(`[data-act=${act}]`).setAttribute("aria-pressed", String(on));

/** Two sides with different patients: said loudly, for as long as it is so. */
function compareBanners() {
  const studies = panes.filter((pane) => !pane.root.hidden).map((pane) => pane.study).filter(Boolean);
  const why = studies.length === 2 ? differs(...studies) : null;
  $("mixed").hidden = !why;
  $("mixed").textContent = !why ? "" : why.sure ? `⚠ TWO DIFFERENT PATIENTS: ${why.sentence}` : `⚠ Perhaps two patients: ${why.sentence}`;
  document.body.classList.toggle("is-mixed", Boolean(why));
}

function presets(pane) {
  const page = pane.pages[pane.place];
  const grey = page?.picture ? greyOf(page.item, page.frame) : null;
  const own = page ? ownWindows(page.item, page.frame) : [];
  const found = [{ name: "Window: as recorded", voi: null },
    ...own.slice(1).map((voi, n) => ({ name: voi.name || `Recorded window ${n + 2}`, voi })),
    { name: "All values", all: true }, ...(grey?.unit === "HU" ? CT_PRESETS.map((voi) => ({ name: `${voi.name}  ${voi.centre} / ${voi.width}`, voi })) : [])];
  const key = JSON.stringify(found);
  const select = $("presets");
  const current = pane.voi ? found.findIndex(({ voi }) => voi && voi.centre === pane.voi.centre && voi.width === pane.voi.width) : 0;
  if (select.dataset.key !== key) {
    select.dataset.key = key;
    select.replaceChildren(...[...found, { name: "Window: by hand", hidden: true }].map(({ name, hidden }, n) => Object.assign(document.createElement("option"), { value: String(n), textContent: name, hidden: Boolean(hidden) })));
  }
  select.value = String(current < 0 ? found.length : current);
  select.onchange = () => {
    const chosen = found[Number(select.value)];
    if (chosen?.all) active.fullRange();
    else active.setWindow(chosen?.voi ?? null);
    changed(active);
    active.$("stage").focus();
  };
}

// -- tools ---------------------------------------------------------------------------------------------

const ACTS = {
  invert: (pane) => { pane.inverted = !pane.inverted; pane.schedule(); },
  fit: (pane) => { Object.assign(pane.picture.view, { zoom: 1, x: 0, y: 0 }); pane.schedule(); },
  one: (pane) => { if (pane.picture.frame) pane.picture.trueSize(); pane.schedule(); },
  left: (pane) => pane.turnBy(-1),
  right: (pane) => pane.turnBy(1),
  mirror: (pane) => pane.mirror(),
  reset: (pane) => pane.reset(),
  play: (pane) => play(pane),
  save: (pane) => { if (pane.study) offer(pane.study); },
  compare: () => compare(),
  full: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
  help: () => $("help").showModal(),
};
const KEYS = {
  i: "invert", f: "fit", 1: "one", t: "right", x: "mirror", r: "reset", " ": "play", c: "compare", d: "save", "?": "help",
};
const TOOLS = { w: "window", q: "scroll", p: "move", z: "zoom", m: "measure" };

function act(name) {
  ACTS[name](active);
  changed(active);
}

function useTool(name) {
  for (const pane of panes) pane.tool = name;
  changed(active);
}

function play(pane) {
  pane.playing = !pane.playing && pane.pages.length > 1;
  const { turn } = pane;
  let due = performance.now();
  const step = (now) => {
    if (!pane.playing || turn !== pane.turn) return;
    const last = pane.place === pane.shownPlace; // never past a frame that has not been seen
    if (now >= due && last) {
      due = Math.max(now, due) + frameTime(pane.page.item).ms - 4;
      pane.go((pane.place + 1) % pane.pages.length);
    }
    requestAnimationFrame(step);
  };
  if (pane.playing) requestAnimationFrame(step);
}

function compare(on = panes[1]?.root.hidden ?? true) {
  const second = panes[1] ?? addPane();
  second.tool = panes[0].tool;
  second.root.hidden = !on;
  if (!on) {
    second.choose(null);
    second.strip = null; // what still comes for it is stale
  } else {
    second.note("Choose a study: one of the same patient, or from the list.");
  }
  $("panes").classList.toggle("two", on);
  press("compare", on);
  active = null;
  activate(on ? second : panes[0]);
  compareBanners();
}

function showStudies(on = $("studies").hidden) {
  $("studies").hidden = !on;
  $("show-studies").setAttribute("aria-expanded", String(on));
}

document.addEventListener("keydown", (event) => {
  const field = event.target.closest("input:not([type=range]), select, textarea, dialog[open]");
  if (event.ctrlKey || event.altKey || event.metaKey || field) return;
  if (event.key === " " && event.target.closest("button")) return;
  const inList = event.target.closest("#study-list, #strip");
  if (event.key === "/") { showStudies(true); $("search").elements.PatientName.focus(); }
  else if (event.key === "s") showStudies();
  else if (event.key === "+" || event.key === "-") { active.picture.zoomBy(event.key === "+" ? 1.2 : 1 / 1.2); active.schedule(); }
  else if (event.key in TOOLS) useTool(TOOLS[event.key]);
  else if (event.key in KEYS) act(KEYS[event.key]);
  else if (event.key === "n" || event.key === "b") strip.step(event.key === "n" ? 1 : -1);
  else if (inList || event.target.closest(".document") || !keyOf(active, event.key)) return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-act]")) button.addEventListener("click", () => act(button.dataset.act));
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => useTool(button.dataset.tool));
$("show-studies").addEventListener("click", () => showStudies());

// -- what is shown all the time ------------------------------------------------------------------------

function part(tag, content, more = {}) {
  return Object.assign(document.createElement(tag), { textContent: content, ...more });
}

const coverage = ({ window }) => (window.complete ? "This archive holds all that exists here"
  : window.from ? `This archive covers ${longDay(window.from)} – today` : "No day is covered completely by this archive yet");

async function showState() {
  const place = $("state");
  try {
    const state = await askState();
    list.coverage = coverage(state);
    const debt = state.owed === 1 ? "1 object is not yet on the primary" : `${state.owed} objects are not yet on the primary`;
    const parts = [part("span", `${state.site}: backup archive.`), part("span", `${coverage(state)}.`),
      state.owed ? part("b", `${debt}.`) : part("span", state.window.complete ? "" : "Nothing is owed to the primary.")];
    if (state.via_router && answeredBy === "primary") {
      parts.push(part("strong", "The primary answers now."), part("a", "Open its own page", { href: "/" }));
    } else if (state.via_router && answeredBy === "backup") parts.push(part("b", "The backup archive answers in place of the primary."));
    const key = parts.map((one) => one.textContent).join();
    if (place.dataset.key !== key) place.replaceChildren(...parts.filter((one) => one.textContent));
    place.dataset.key = key;
    return state;
  } catch (error) {
    place.dataset.key = "";
    place.replaceChildren(part("b", `✕ ${error.message} What is shown may be old. Trying again every few seconds.`));
    return null;
  }
}

async function watch() {
  const state = document.hidden ? null : await showState();
  if (state?.via_router && Date.now() - watch.asked > ROUTE_EVERY_MS) {
    watch.asked = Date.now();
    await whoAnswers();
    await showState();
  }
  clearTimeout(watch.timer);
  watch.timer = setTimeout(watch, STATE_EVERY_MS);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) { watch.asked = 0; watch(); } });
watch.asked = Date.now();

// -- begin ---------------------------------------------------------------------------------------------

const strip = new Strip((pane, series) => pane.open(series), open);
const list = new StudyList(open);

/** Open a study on the active side. */
function open(study) {
  if (matchMedia("(max-width: 60rem)").matches) showStudies(false);
  active.choose(study);
  strip.load(active);
  list.mark(panes.map((pane) => text(pane.study, T.study)));
}

activate(addPane());
active.note("Choose a study.");
await showState();
watch.timer = setTimeout(watch, STATE_EVERY_MS);
await list.search();
await showState();
