// What the server is doing, at a glance.
import { byId, el, fill, runLink, show } from "./dom.js";
import { clock, count, growing, money } from "./format.js";
import { getJson, keepTime, poll } from "./poll.js";

const LANES = { "heartline": "Runs", "heartline-tasks": "Tasks" };
let ahead = 0; // of this browser's clock, the server's

const beat = keepTime(() => Date.now() / 1000 + ahead, growing);

const since = (at) => el("span", { "data-since": at });
const cell = (label, ...content) => el("td", { "data-label": label }, ...content);
const number = (label, ...content) => el("td", { "data-label": label, class: "number" }, ...content);
const head = (label, ...content) => el("th", { scope: "row", "data-label": label }, ...content);

/** Fill a list, and show its sentence for "none" when there is none. */
function list(id, items, make) {
  fill(byId(id), items, make);
  const none = byId(`${id}-none`);
  if (none) none.hidden = items.length > 0;
  const table = byId(id).closest("table");
  if (table && none) table.hidden = items.length === 0;
}

function running(run) {
  return el("tr", {}, head("Run", runLink(run.id)), cell("Model", run.model), cell("Key", run.owner), number("For", since(run.started_at)));
}

function failure(run) {
  return el("li", {},
    el("p", { class: "line" }, runLink(run.id), el("code", { class: "code" }, run.code), el("span", {}, run.model),
      el("span", {}, run.owner), el("time", {}, clock(run.ended_at))),
    el("p", { class: "reason" }, run.message));
}

function slot(one) {
  const name = el("span", { class: "slot-name" }, one.name);
  return el("li", { class: one.run ? "slot busy" : "slot" }, name, one.run ? runLink(one.run) : el("span", { class: "idle" }, "free"));
}

function worker(one) {
  const busy = one.slots.filter((each) => each.run).length;
  return el("li", {},
    el("p", { class: "line" }, el("strong", {}, one.name), el("span", {}, `${busy} of ${one.slots.length} busy`),
      one.leaving ? el("span", { class: "status cancelled" }, "leaving") : null),
    el("ul", { class: "slots" }, ...one.slots.map(slot)));
}

function lane(one) {
  const oldest = one.oldest_created_at ? since(one.oldest_created_at) : "–";
  return el("tr", {}, head("Lane", LANES[one.lane] ?? one.lane), number("Waiting", count(one.queued)), number("Oldest", oldest));
}

function replica(one) {
  const state = one.draining ? el("span", { class: "status cancelled" }, "leaving") : null;
  return el("tr", {}, head("Replica", el("span", { title: one.name }, `${one.host} · ${one.address}`), " ", state),
    number("Watchers", count(one.watchers)), number("Up", since(one.since)));
}

function usage([owner, used]) {
  return el("tr", {}, head("Key", owner), number("Runs", count(used.runs)), number("Failed", count(used.failed)),
    number("Tokens", count(used.input_tokens + used.output_tokens)), number("Cost", money(used.cost_usd)));
}

const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);

poll(async () => {
  const now = await getJson("/v1/overview");
  ahead = now.at - Date.now() / 1000;
  const slots = now.workers.flatMap((one) => one.slots);
  show("n-running", count(now.running_count));
  show("n-waiting", count(sum(now.lanes, (one) => one.queued)));
  show("n-slots", `${slots.filter((one) => one.run).length} / ${slots.length}`);
  show("n-replicas", count(now.replicas.length));
  show("n-watchers", count(sum(now.replicas, (one) => one.watchers)));
  show("n-cost", money(now.usage_today.totals.cost_usd));
  list("running", now.running, running);
  list("failures", now.failures, failure);
  list("workers", now.workers, worker);
  list("lanes", now.lanes, lane);
  list("replicas", now.replicas, replica);
  list("usage", Object.entries(now.usage_today.owners), usage);
  beat();
}, 2);
