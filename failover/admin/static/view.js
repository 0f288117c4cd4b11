// What the router's facts look like. Facts in, words and DOM nodes out: no network, no state.
// Nothing is told by colour alone: each verdict has its sign and its word.

const VERDICTS = {
  up: { sign: "●", word: "up" },
  suspect: { sign: "◐", word: "suspect" },
  down: { sign: "✕", word: "down" },
  unknown: { sign: "○", word: "not known yet" },
};
const SERVICES = { web: "Web", dicom: "DICOM" };
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

/** Return `{level, title, lines}`: the one thing to know, and why. `level` is calm, attention or alarm. */
export function headline(status) {
  const services = existing(status);
  const active = [...new Set(services.map(([, route]) => route.active))];
  const lines = [];
  let level = "calm";
  let title;
  if (active.length > 1) {
    title = services.map(([name, route]) => `${SERVICES[name]} is answered by the ${route.active}`).join(", ");
    level = "alarm";
  } else if (status.phase === "failing_back") {
    title = "On the way back to the primary";
    lines.push("New objects go to the primary. The backup answers until nothing is owed.");
    level = "attention";
  } else if (active[0] === "backup") {
    title = "The backup answers";
    level = "alarm";
  } else {
    title = "The primary answers";
  }
  if (status.mode !== "auto") {
    level = worse(level, "attention");
    lines.push(intentSentence(status));
  }
  for (const name of ["primary", "backup"]) {
    for (const [service, label] of Object.entries(SERVICES)) {
      const health = status.upstreams[name]?.[service];
      if (!health || !["down", "suspect"].includes(health.verdict)) continue;
      const serves = status.services[service]?.active === name;
      level = worse(level, serves && health.verdict === "down" ? "alarm" : "attention");
      const stake = name === "backup" && !serves ? "; nothing would take over from the primary" : "";
      lines.push(`${label} of the ${name} is ${health.verdict}${stake}${health.reason ? `: ${health.reason}` : ""}.`);
    }
  }
  if (status.mode === "auto" && status.phase !== "on_primary" && status.failback?.reason) {
    lines.push(`Way back: ${status.failback.reason}.`.replace("Way back: waiting:", "The way back waits:"));
  }
  if (!lines.length) lines.push("Nothing needs you.");
  return { level, title, lines };
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
  const { level, title, lines } = headline(status);
  const sign = { calm: "✓", attention: "!", alarm: "‼" }[level];
  const since = existing(status).map(([, route]) => route.since).filter(Boolean).sort().at(-1);
  return h("div", { class: `state ${level}` },
    h("span", { class: "sign", "aria-hidden": "true" }, sign),
    h("div", {},
      h("h1", {}, title),
      lines.map((line) => h("p", {}, line)),
      h("p", { class: "faint" },
        `mode ${status.mode} · ${String(status.phase).replaceAll("_", " ")}`,
        since ? ` · since ${localTime(since)}` : "")));
}

export function renderUpstream(status, name) {
  const healths = status.upstreams[name] ?? {};
  const answered = existing(status).filter(([, route]) => route.active === name)
    .map(([service]) => (service === "web" ? "web" : "DICOM"));
  const flight = status.in_flight?.[name] ?? {};
  return [
    h("h2", {}, name === "primary" ? "Primary" : "Backup",
      h("span", { class: answered.length ? "role serves" : "role" },
        answered.length ? `▶ answers ${answered.join(" and ")}` : "stands by")),
    h("dl", { class: "services" }, Object.entries(SERVICES).map(([service, label]) => [
      h("dt", {}, label),
      h("dd", {}, renderHealth(healths[service], flight[service], service)),
    ])),
  ];
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
  return [
    h("h2", {}, "Way back"),
    h("p", { class: "big" }, away ? (allowed ? "✓ open" : "◌ not yet") : "– not needed"),
    away && reason ? h("p", { class: "why" }, reason) : null,
    away && left > 0 ? h("p", { class: "why" }, `hold-down: ${duration(left)} left`) : null,
  ];
}

export function renderReplication(status) {
  const r = status.replication ?? {};
  const known = r.lag_objects !== null && r.lag_objects !== undefined;
  const owed = !known ? "? not known" : r.lag_objects === 0 ? "✓ nothing owed" : `${number(r.lag_objects)} owed`;
  const rows = [
    ["oldest owed", known && r.lag_objects > 0 ? duration(r.lag_s ?? 0) : null],
    ["refused by the primary", r.refused ? number(r.refused) : null],
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
  return h("ol", { class: "events" }, events.map((event) => h("li", {},
    h("time", { datetime: event.time, title: event.time }, localTime(event.time)),
    h("p", {},
      h("strong", {}, eventTitle(event)),
      event.reason ? ` ${event.reason}` : "",
      event.actor ? h("span", { class: "faint" }, ` by ${event.actor}`) : null))));
}

function eventTitle(event) {
  const words = [String(event.kind).replaceAll("_", " ")];
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
  const { level } = headline(status);
  const who = [...new Set(existing(status).map(([, route]) => route.active))].join(" + ");
  return `${{ calm: "✓", attention: "!", alarm: "‼" }[level]} ${who} · ${status.site}`;
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

function worse(one, other) {
  const order = ["calm", "attention", "alarm"];
  return order[Math.max(order.indexOf(one), order.indexOf(other))];
}
