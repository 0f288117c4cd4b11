// The picture of the flow: callers, router, both upstreams, and which way is taken. Facts in, one SVG out.
// It repeats what the words beside it say, so it is told to screen readers as one sentence.

const NS = "http://www.w3.org/2000/svg";
const Y = { primary: 48, backup: 162 };

function s(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Return the picture of one status. */
export function renderFlow(status) {
  const ways = ["primary", "backup"].map((name) => way(status, name));
  return s("svg", { viewBox: "0 0 464 210", class: "flow", role: "img", "aria-label": sentence([...ways]) },
    box(4, 75, 92, 60, "Callers", `${ways[0].now + ways[1].now} now`),
    s("path", { class: "way taken", d: "M96 105 H158" }), head(158, 105, "taken"),
    box(166, 75, 92, 60, "Router", status.mode),
    ...ways.sort((one, other) => one.answers.length - other.answers.length).flatMap(draw), // the taken one on top
    ...copies(status));
}

/** What one upstream is in the picture: which services it answers, how it is, what is there now. */
function way(status, name) {
  const routes = Object.entries(status.services ?? {}).filter(([, route]) => route?.active);
  const answers = routes.filter(([, route]) => route.active === name).map(([service]) => service);
  const stores = name === "primary" && routes.some(([, route]) => route.phase === "failing_back");
  const verdicts = Object.values(status.upstreams?.[name] ?? {}).map((health) => health?.verdict);
  const worst = ["down", "suspect", "up"].find((verdict) => verdicts.includes(verdict)) ?? "unknown";
  const now = Object.values(status.in_flight?.[name] ?? {}).reduce((sum, count) => sum + (count ?? 0), 0);
  return { name, answers, stores, worst, now, all: answers.length === routes.length };
}

function draw({ name, answers, stores, worst, now, all }) {
  const y = Y[name];
  const kind = answers.length || stores ? "taken" : "idle";
  const words = stores && !answers.length ? "stores" : answers.length && !all ? answers.join(" ") : "";
  return [
    s("path", { class: `way ${kind}`, d: `M258 105 C300 105 284 ${y} 326 ${y}` }),
    head(326, y, kind),
    ...(words ? [s("text", { class: "label", x: 268, y: name === "primary" ? 56 : 166 }, words)] : []),
    box(334, y - 30, 126, 60, name === "primary" ? "Primary" : "Backup", `${SIGN[worst]} ${worst} · ${now} now`, worst),
  ];
}

const SIGN = { up: "●", suspect: "◐", down: "✕", unknown: "○" };

/** What the replicator has to carry between the two. */
function copies({ replication = {}, mode, intent }) {
  const still = ["forced", "drain"].includes(mode) && intent.upstream !== (mode === "forced" ? "primary" : "backup")
    && !intent.keep_replicating;
  const words = still ? "no copies" : replication.lag_objects ? `▲ ${replication.lag_objects.toLocaleString("en")} owed`
    : replication.pending_to_backup ? `▼ ${replication.pending_to_backup.toLocaleString("en")} to copy` : "copies";
  return [
    s("path", { class: `way ${still ? "idle" : "copy"}`, d: "M436 78 V132" }),
    s("text", { class: "label", x: 428, y: 109, "text-anchor": "end" }, words),
  ];
}

function box(x, y, width, height, title, note, verdict = "") {
  const middle = x + width / 2;
  return s("g", { class: `box ${verdict}` },
    s("rect", { x, y, width, height, rx: 9 }),
    s("text", { class: "title", x: middle, y: y + 27, "text-anchor": "middle" }, title),
    s("text", { class: "note", x: middle, y: y + 46, "text-anchor": "middle" }, note));
}

function head(x, y, kind) {
  return s("path", { class: `head ${kind}`, d: `M${x - 2} ${y - 6} L${x + 7} ${y} L${x - 2} ${y + 6} Z` });
}

function sentence(ways) {
  return ways.map(({ name, answers, stores, worst }) =>
    `The ${name} is ${worst}${answers.length ? ` and answers ${answers.join(" and ")}` : ""}${stores ? " and takes stores" : ""}.`)
    .join(" ");
}
