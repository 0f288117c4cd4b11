// What the router's facts look like. Facts in, words and DOM nodes out: no network, no state.
// Nothing is told by colour alone: each verdict has its sign and its word.

const VERDICTS = {
  up: { sign: "●", word: "up" },
  suspect: { sign: "◐", word: "suspect" },
  down: { sign: "✕", word: "down" },
  unknown: { sign: "○", word: "not known yet" },
};
const SIGNS = { calm: "✓", attention: "!", alarm: "‼" };
const SERVICES = { web: "Web", dicom: "DICOM" };
/** What each decision means, for the dialog. */
export const DECISIONS = {
  failback: "begin the way back to the primary",
  refused: "go back although the primary refused objects, or the archive lost some",
  "vanished-owed": "what vanished from the primary is debt: send it again",
  "vanished-deleted": "what vanished from the primary was deleted there: hide it",
  "clock-right": "the archive's clock leapt ahead and is right: what is old by it may go",
};
const PARTS = { reach: "reach", query: "query", retrieve: "retrieve", store: "store" };

/** Return a DOM element; children may be nodes, text, or null for nothing. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** The operator's intent in words. */
export function intentSentence(status) {
  const { upstream, reason, actor, until } = status.intent;
  const what = {
    forced: `Forced to the ${upstream}`,
    drain: `The ${upstream ?? "primary"} is being drained`,
    paused: "Paused: nothing moves by itself",
  }[status.mode] ?? status.mode;
  return [
    what,
    actor ? ` by ${actor}` : "",
    until ? ` until ${localTime(until)}` : ", until someone says auto",
    reason ? `: ${reason}` : "",
    ".",
  ].join("").replace(/\.\.$/, ".");
}

export function renderHeadline(status) {
  const sign = SIGNS[status.level] ?? "!";
  return h("div", { class: `state ${status.level}` },
    h("span", { class: "sign", "aria-hidden": "true" }, sign),
    h("div", {},
      h("h1", {}, inLocalTime(status.headline)),
      h("p", {}, withCode(inLocalTime(status.advice))),
      (status.troubles ?? []).filter(({ sentence }) => !status.advice.toLowerCase().startsWith(sentence.toLowerCase()))
        .map(({ component, sentence }) => h("p", { class: "trouble" }, `${component}: `, withCode(sentence)))));
}

/** A command in a sentence stands between backticks. */
function withCode(sentence) {
  return sentence.split("`").map((words, index) => (index % 2 ? h("code", {}, words) : words));
}

/** What the operator wants, beside the button that ends it; nothing in auto. */
export function renderMode(status) {
  return status.mode === "auto" ? [] : [h("strong", {}, `Mode ${status.mode}. `), intentSentence(status)];
}

/** Put the moments of a sentence of the router into local time. */
export function inLocalTime(sentence) {
  return String(sentence ?? "").replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, (moment) => localTime(moment));
}

export function renderUpstream(status, name) {
  const healths = status.upstreams[name] ?? {};
  const answered = existing(status).filter(([, route]) => route.active === name)
    .map(([service]) => (service === "web" ? "web" : "DICOM"));
  const flight = status.in_flight?.[name] ?? {};
  return [
    h("h2", {}, name === "primary" ? "Primary" : "Backup",
      h("span", { class: answered.length ? "role serves" : "role" },
        answered.length ? `▶ answers ${answered.join(" and ")}` : stands(status, name))),
    answered.length ? h("p", { class: "why" }, sinceOf(status, name)) : null,
    h("dl", { class: "services" }, Object.entries(SERVICES).map(([service, label]) => [
      h("dt", {}, label),
      h("dd", {}, renderHealth(healths[service], flight[service], service)),
    ])),
  ];
}

function sinceOf(status, name) {
  const since = existing(status).filter(([, route]) => route.active === name).map(([, route]) => route.since).sort().at(-1);
  return since ? `since ${localTime(since)}` : "";
}

function stands(status, name) {
  if (name === "primary" && status.phase === "failing_back") return "▷ takes stores";
  const found = Object.values(status.upstreams[name] ?? {}).filter(({ reason }) => reason !== "not configured");
  if (!found.some(({ verdict }) => verdict === "down")) return "stands by";
  return found.some(({ verdict }) => verdict === "up") ? "stands by in part" : "✕ does not answer";
}

function renderHealth(health, inFlight, service) {
  if (!health || health.reason === "not configured") return h("span", { class: "faint" }, "– not configured");
  const { sign, word } = VERDICTS[health.verdict] ?? VERDICTS.unknown;
  // The reason names the part that failed; the others are told where they are not well.
  const parts = Object.entries(health.parts ?? {}).filter(
    ([name, part]) => ["down", "suspect"].includes(verdictOf(part)) && !String(health.reason).startsWith(`${name}:`));
  const noun = service === "web" ? ["request", "requests"] : ["association", "associations"];
  return [
    h("p", { class: `verdict ${health.verdict ?? "unknown"}` },
      h("span", { class: "mark", "aria-hidden": "true" }, sign), ` ${word}`,
      inFlight === undefined || inFlight === null
        ? null
        : h("span", { class: "flight" }, `${inFlight} ${noun[inFlight === 1 ? 0 : 1]} now`)),
    health.reason ? h("p", { class: "why" }, health.reason) : null,
    ...parts.map(([part, verdict]) =>
      h("p", { class: "why" }, `${PARTS[part] ?? part}: ${VERDICTS[verdictOf(verdict)]?.word ?? "not known yet"}`)),
  ];
}

export function renderFailback(status) {
  const { allowed, reason, hold_down_left_s: left } = status.failback ?? {};
  const away = status.phase !== "on_primary";
  const steady = Object.values(status.upstreams.primary ?? {}).every(
    (health) => health?.verdict === "up" || health?.reason === "not configured");
  const counts = away && steady && status.mode === "auto" && left > 0;
  return [
    h("h2", {}, "Way back"),
    h("p", { class: "big" }, !away ? "– not needed" : counts ? `◌ in ${duration(left)} at the earliest`
      : allowed ? "✓ open" : "◌ not yet"),
    away && reason ? h("p", { class: "why" }, reason) : null,
    counts ? h("p", { class: "why" }, "Hold-down: so long the primary must still stay up without a suspicion. Each failover "
      + "within an hour doubles it.") : null,
    away ? null : h("p", { class: "why" }, "The primary answers."),
  ];
}

export function renderReplication(status) {
  const r = status.replication ?? {};
  const known = r.lag_objects !== null && r.lag_objects !== undefined;
  const owed = !known ? "? not known" : r.lag_objects === 0 ? "✓ nothing owed" : `${number(r.lag_objects)} owed`;
  const rows = [
    ["oldest owed", known && r.lag_objects > 0 ? duration(r.lag_s ?? 0) : null],
    ["refused by the primary", r.refused > (r.lost ?? 0) ? number(r.refused - (r.lost ?? 0)) : null],
    ["lost in the archive", r.lost ? number(r.lost) : null],
    ["to be sent to the primary", number(r.pending_to_primary)],
    ["to be fetched to the backup", number(r.pending_to_backup)],
    ["coverage", r.coverage_ratio === null || r.coverage_ratio === undefined ? "not known yet" : percent(r.coverage_ratio)],
  ].filter(([, value]) => value !== null);
  return [
    h("h2", {}, "Replication"),
    h("p", { class: "big" }, owed),
    known ? null : h("p", { class: "why" }, "nobody has reported it for 5 s; unknown keeps the way back closed"),
    h("dl", { class: "numbers" }, rows.map(([label, value]) => [h("dt", {}, label), h("dd", {}, value)])),
  ];
}

export function renderEvents(events) {
  if (!events.length) return h("p", { class: "faint" }, "Nothing has happened yet.");
  return h("ol", { class: "events" }, events.map((event) => h("li", { class: `kind-${event.kind}`, title: event.code },
    h("time", { datetime: event.time, title: event.time }, localTime(event.time)),
    h("p", {},
      h("strong", {}, eventTitle(event)),
      event.reason ? ` ${event.reason}` : "",
      event.actor ? h("span", { class: "faint" }, ` by ${event.actor}`) : null))));
}

const KINDS = { started: "Router started", transition: "Traffic moves", verdict: "Health", intent: "Operator",
  decision: "Decision", drain: "Drain", alarm: "Alarm", state: "Routing state" };

function eventTitle(event) {
  const words = [KINDS[event.kind] ?? event.kind];
  const whose = String(event.code ?? "").split("_")[0];
  if (event.kind === "verdict" && ["primary", "backup"].includes(whose)) words.push(whose);
  if (event.service) words.push(SERVICES[event.service] ?? event.service);
  const steps = [event.from, event.to].filter(Boolean).map((word) => String(word).replaceAll("_", " "));
  if (steps.length) words.push(steps.join(" → "));
  return `${words.join(" · ")}:`;
}

export function renderWould(sentences) {
  return h("ul", {}, sentences.map((sentence) => h("li", {}, sentence)));
}

/** What the browser's tab says, so that a row of tabs can be read. */
export function tabTitle(status) {
  const who = [...new Set(existing(status).map(([, route]) => route.active))].join(" + ");
  return `${SIGNS[status.level] ?? "!"} ${who} · ${status.site}`;
}

export function duration(seconds) {
  const s = Math.round(seconds);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function localTime(rfc3339) {
  const moment = new Date(rfc3339);
  if (Number.isNaN(moment.getTime())) return String(rfc3339);
  const today = new Date().toDateString() === moment.toDateString();
  const time = moment.toLocaleTimeString("en-GB");
  return today ? time : `${moment.toLocaleDateString("en-CA")} ${time}`;
}

function percent(ratio) {
  // Rounded down: 100 % is said only when all is there.
  return ratio >= 1 ? "100 %" : `${(Math.floor(ratio * 1000) / 10).toFixed(1)} %`;
}

function number(value) {
  return value === null || value === undefined ? "not known" : Number(value).toLocaleString("en");
}

function existing(status) {
  return Object.entries(status.services ?? {}).filter(([, route]) => route && route.active);
}

function verdictOf(part) {
  return part && typeof part === "object" ? part.verdict : part;
}
