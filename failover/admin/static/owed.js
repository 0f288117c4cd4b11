// What is owed to the primary, object by object: asked for when someone opens it, a page at a time.

import { h, localTime } from "./view.js";

const PAGE = 50;
const NOTHING = {
  "": "Nothing is owed: all that the archive received is proven on the primary.",
  owed: "Nothing waits to be sent.",
  sent: "Nothing that was sent waits to be shown.",
  refused: "The primary refused nothing.",
  vanished: "Nothing that vanished waits for a decision.",
  deleted: "Nothing here was deleted on the primary.",
  proven: "Nothing that was owed is proven yet.",
};

const $ = (id) => document.getElementById(id);

/** Follow the card; `ask(method, path)` returns JSON or throws an Error with a sentence. */
export function followOwed(ask) {
  let after = null;
  let asked = 0;

  async function more() {
    const state = $("owed-state").value;
    const question = new URLSearchParams({ limit: PAGE, ...(state ? { state } : {}), ...(after ? { after } : {}) });
    const mine = ++asked;
    try {
      const answer = await ask("GET", `api/owed?${question}`);
      if (mine !== asked) return; // another state was chosen meanwhile
      if (answer.objects.length) $("owed-rows").append(...answer.objects.map(row));
      const empty = !$("owed-rows").children.length;
      $("owed-table").hidden = empty;
      $("owed-said").textContent = empty ? NOTHING[state] : paused(answer);
      after = answer.next;
    } catch (error) {
      if (mine !== asked) return;
      $("owed-said").textContent = error.message;
      after = null;
    }
    $("owed-more").hidden = after === null;
  }

  function anew() {
    after = null;
    $("owed-rows").replaceChildren();
    $("owed-table").hidden = true;
    $("owed-said").textContent = "";
    if ($("owed").open) more();
  }

  $("owed").addEventListener("toggle", anew);
  $("owed-state").addEventListener("change", anew);
  $("owed-more").addEventListener("click", more);
}

function paused(answer) {
  return answer.sending && answer.sending !== "allowed" ? `Nothing is sent now: ${answer.sending}.` : "";
}

function row(one) {
  return h("tr", {},
    h("td", {}, one.state),
    h("td", {}, time(one.since)),
    h("td", {}, one.times_sent ?? "–"),
    h("td", {}, one.last_status ?? "–"),
    h("td", {}, time(one.next_attempt)),
    h("td", { class: "uid" }, one.study_instance_uid, h("br"), one.sop_instance_uid));
}

function time(moment) {
  return moment ? h("time", { datetime: moment }, localTime(moment)) : "–";
}
