// The status page: follows the router's stream and carries the operator's intents. Words are in view.js.

import {
  DECISIONS, h, localTime, renderEvents, renderFailback, renderHeadline, renderMode, renderReplication, renderUpstream,
  renderWould, tabTitle,
} from "./view.js";
import { renderFlow } from "./flow.js";
import { followOwed } from "./owed.js";

const SILENCE_MS = 4000; // the stream has a line each second
const RETRY_MS = 1000;
const MOST_EVENTS = 50;
const TOKEN_KEY = "failover-token";
// A dry run records nothing, so before a reason is written this one shows the consequences.
const DRY_RUN_REASON = "asked what would happen";

const $ = (id) => document.getElementById(id);
const state = { status: null, events: [], heardAt: null, mode: null, dryRun: 0, allowed: false };

class Denied extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  return { "X-Failover-Actor": "status%20page", ...(token ? { Authorization: `Bearer ${token}` } : {}), ...more };
}

async function ask(method, path, content) {
  const response = await fetch(path, {
    method,
    headers: headers(content ? { "Content-Type": "application/json" } : {}),
    body: content ? JSON.stringify(content) : undefined,
    cache: "no-store",
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Denied(response.status, answer.error ?? `HTTP ${response.status}`);
  return answer;
}

// -- following -----------------------------------------------------------------------------------------

async function follow() {
  for (;;) {
    try {
      await listen();
    } catch (error) {
      if (error instanceof Denied && error.status === 401) await askForToken();
      else if (error instanceof Denied) contactLost(`the router says: ${error.message}`);
    }
    await pause(RETRY_MS);
  }
}

async function listen() {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await fetch("api/stream", { headers: headers(), cache: "no-store", signal: silence.signal });
    if (!response.ok) {
      const answer = await response.json().catch(() => ({}));
      throw new Denied(response.status, answer.error ?? `HTTP ${response.status}`);
    }
    state.events = []; // the first line brings the last ones anew
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) heard(JSON.parse(line));
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

function heard({ status, events }) {
  state.status = status;
  state.heardAt = Date.now();
  state.events = [...events.slice().reverse(), ...state.events].slice(0, MOST_EVENTS);
  show();
}

function contactLost(why) {
  const since = state.heardAt ? ` since ${localTime(new Date(state.heardAt).toISOString())}` : "";
  $("contact").textContent = "✕ no contact";
  document.title = `✕ no contact · ${state.status?.site ?? "failover"}`;
  $("lost").textContent = state.status
    ? `No contact with the router${since}. Below is what it said last. ${why ?? ""}`
    : `No contact with the router. ${why ?? ""}`;
  $("lost").hidden = false;
  $("main").classList.add("old");
}

setInterval(() => {
  if (Date.now() - (state.heardAt ?? started) > SILENCE_MS && !$("token-dialog").open) contactLost();
}, 500);
const started = Date.now();

// -- showing -------------------------------------------------------------------------------------------

const shown = new Map();

/** Put `nodes` into the element called `id`, only when `facts` differ from what it shows: nothing flickers. */
function put(id, facts, nodes) {
  const key = JSON.stringify(facts);
  if (shown.get(id) === key) return;
  shown.set(id, key);
  $(id).replaceChildren(...[nodes()].flat(Infinity).filter(Boolean));
}

function show() {
  const { status, events } = state;
  document.title = tabTitle(status);
  $("site").textContent = status.site;
  $("contact").textContent = "● live";
  $("lost").hidden = true;
  $("main").hidden = false;
  $("main").classList.remove("old");
  put("headline", [status.level, status.headline, status.advice, status.troubles], () => renderHeadline(status));
  put("mode-words", [status.mode, status.intent], () => renderMode(status));
  $("mode").hidden = status.mode === "auto";
  $("decide").hidden = !(status.decisions ?? []).length;
  put("flow", [status.services, status.upstreams, status.in_flight, status.replication, status.mode, status.intent],
    () => renderFlow(status));
  for (const name of ["primary", "backup"]) {
    put(name, [status.upstreams[name], status.services, status.in_flight?.[name]], () => renderUpstream(status, name));
  }
  put("failback", [status.failback, status.phase], () => renderFailback(status));
  put("replication", status.replication, () => renderReplication(status));
  put("events", [events.length, events[0]?.id], () => renderEvents(events));
  $("auto").disabled = status.mode === "auto";
  $("auto").classList.toggle("quiet", status.mode === "auto");
}

// -- intents -------------------------------------------------------------------------------------------

const TITLES = { forced: "Force…", drain: "Drain the primary…", paused: "Pause…", decide: "Decide…" };

function openIntent(mode) {
  state.mode = mode;
  $("intent-title").textContent = TITLES[mode];
  $("intent-upstream").hidden = mode !== "forced";
  $("intent-even-field").hidden = !["forced", "drain"].includes(mode);
  $("intent-for-field").hidden = mode === "decide";
  $("intent-decision").hidden = mode !== "decide";
  if (mode === "decide") offerDecisions();
  const active = Object.values(state.status.services).find((route) => route?.active)?.active ?? "primary";
  const target = active === "primary" ? "backup" : "primary";
  document.querySelector(`input[name=upstream][value=${target}]`).checked = true;
  $("intent-for").value = "";
  $("intent-keep").checked = false;
  $("intent-even").checked = false;
  $("reason-guest").append($("reason-field")); // one text box: what was written before stays
  $("intent").showModal();
  $("reason").focus();
  foresee();
}

/** Only what means something now can be chosen. */
function offerDecisions() {
  const choices = state.status.decisions.map((name, index) =>
    h("label", {}, h("input", { type: "radio", name: "decision", value: name, checked: index === 0 ? "" : null }),
      ` ${DECISIONS[name] ?? name}`));
  $("intent-decision").replaceChildren($("intent-decision").querySelector("legend"), ...choices);
}

/** What the dialog asks for: where to send it, and its content. */
function wanted() {
  const mode = state.mode;
  const reason = $("reason").value.trim();
  if (mode === "decide") {
    $("intent-keep-field").hidden = true;
    const decision = document.querySelector("input[name=decision]:checked")?.value;
    return { method: "POST", path: "api/decisions", label: `Confirm: ${decision}`, content: { decision, reason } };
  }
  const forced = document.querySelector("input[name=upstream]:checked").value;
  const untouched = mode === "drain" || (mode === "forced" && forced === "backup");
  $("intent-keep-field").hidden = !untouched; // else replication goes on anyway
  const label = { forced: `Confirm: force the ${forced}`, drain: "Confirm: drain the primary", paused: "Confirm: pause" }[mode];
  const content = {
    mode,
    upstream: { forced, drain: "primary", paused: null }[mode],
    reason,
    for_s: $("intent-for").value ? Number($("intent-for").value) : null,
    keep_replicating: untouched && $("intent-keep").checked,
    even_if_down: mode !== "paused" && $("intent-even").checked,
  };
  return { method: "PUT", path: "api/route", label, content };
}

/** Ask the router what would happen, and show it; the last question wins. */
async function foresee() {
  const turn = ++state.dryRun;
  const { method, path, label, content } = wanted();
  $("intent-confirm").textContent = label;
  allow(false);
  try {
    const answer = await ask(method, path, { ...content, reason: DRY_RUN_REASON, dry_run: true });
    if (turn !== state.dryRun) return;
    $("would").replaceChildren(renderWould(answer.would ?? []));
    allow(true);
  } catch (error) {
    if (turn !== state.dryRun) return;
    $("would").replaceChildren(h("p", { class: "refused" }, `✕ ${error.message}`));
  }
}

function allow(allowed) {
  state.allowed = allowed;
  const reasoned = $("reason").value.trim() !== "";
  $("intent-hint").hidden = reasoned;
  $("intent-confirm").disabled = !(allowed && reasoned);
}

async function confirmIntent(event) {
  event.preventDefault();
  if ($("intent-confirm").disabled) return;
  const { method, path, label, content } = wanted();
  allow(false);
  try {
    const status = await ask(method, path, content);
    $("reason").value = "";
    $("intent").close();
    done(status, label.replace("Confirm: ", ""));
  } catch (error) {
    $("would").replaceChildren(h("p", { class: "refused" }, `✕ ${error.message}`));
    allow(true);
  }
}

/** Hand the decision back, at once: nothing can be harmed by it, the gate stays what it is. */
async function backToAuto() {
  try {
    const status = await ask("PUT", "api/route", { mode: "auto", reason: $("reason").value.trim() || null });
    $("reason").value = "";
    done(status, "auto: the router decides again");
  } catch (error) {
    $("done").textContent = `✕ ${error.message}`;
  }
}

function done(status, words) {
  $("done").textContent = `✓ ${localTime(new Date().toISOString())} ${words}`;
  state.status = status;
  show();
}

for (const button of document.querySelectorAll("button[data-mode]")) {
  button.addEventListener("click", () => openIntent(button.dataset.mode));
}
for (const button of document.querySelectorAll("[data-auto]")) button.addEventListener("click", backToAuto);
$("decide").addEventListener("click", () => openIntent("decide"));
$("intent-cancel").addEventListener("click", () => $("intent").close());
// The event comes a moment after the end: the dialog may be open again, and then the field is needed in it.
$("intent").addEventListener("close", () => {
  if (!$("intent").open) $("reason-home").append($("reason-field"));
});
$("intent-form").addEventListener("submit", confirmIntent);
$("intent-form").addEventListener("change", (event) => {
  if (event.target !== $("reason")) foresee();
});
$("reason").addEventListener("input", () => allow(state.allowed));

// -- token ---------------------------------------------------------------------------------------------

/** Return when a token was typed in. It lives in this tab alone: never in a URL, never in a cookie. */
function askForToken() {
  const refused = sessionStorage.getItem(TOKEN_KEY) !== null;
  sessionStorage.removeItem(TOKEN_KEY);
  $("contact").textContent = "○ token needed";
  $("token-title").textContent = refused ? "The router does not know this token" : "A token is needed";
  $("token").value = "";
  $("token-dialog").showModal();
  return new Promise((resolve) => {
    $("token-form").addEventListener("submit", () => {
      sessionStorage.setItem(TOKEN_KEY, $("token").value.trim());
      resolve();
    }, { once: true });
    $("token-dialog").addEventListener("cancel", (event) => event.preventDefault());
  });
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

followOwed(ask);
follow();
