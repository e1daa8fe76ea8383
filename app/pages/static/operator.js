// What the server is doing, at a glance.
import { byId, el, fill, runLink, show } from "./dom.js";
import { clock, count, growing, money } from "./format.js";
import { getJson, keepTime, poll } from "./poll.js";
import { word } from "./words.js";

const LANES = { "heartline": word("runs"), "heartline-tasks": word("tasks") };
let ahead = 0; // of this browser's clock, the server's

const beat = keepTime(() => Date.now() / 1000 + ahead, growing);

const since = (at) => el("span", { "data-since": at });
const cell = (...content) => el("td", {}, ...content);
const number = (...content) => el("td", { class: "number" }, ...content);
const head = (...content) => el("th", { scope: "row" }, ...content);

/** Fill a list, and show its sentence for "none" when there is none. */
function list(id, items, make) {
  fill(byId(id), items, make);
  const none = byId(`${id}-none`);
  if (none) none.hidden = items.length > 0;
  const table = byId(id).closest("table");
  if (table && none) table.hidden = items.length === 0;
}

function running(run) {
  return el("tr", {}, head(runLink(run.id)), cell(run.model), cell(run.owner), number(since(run.started_at)));
}

function failure(run) {
  return el("li", {},
    el("p", { class: "line" }, runLink(run.id), el("code", { class: "code" }, run.code), el("span", {}, run.model),
      el("span", {}, run.owner), el("time", {}, clock(run.ended_at))),
    el("p", { class: "reason" }, run.message));
}

function slot(one) {
  const name = el("span", { class: "slot-name" }, one.name);
  return el("li", { class: one.run ? "slot busy" : "slot" }, name, one.run ? runLink(one.run) : el("span", { class: "idle" }, word("free")));
}

function worker(one) {
  const busy = one.slots.filter((each) => each.run).length;
  return el("li", {},
    el("p", { class: "line" }, el("strong", {}, one.name), el("span", {}, word("busy_of", { busy, all: one.slots.length })),
      one.leaving ? el("span", { class: "status cancelled" }, word("leaving")) : null),
    el("ul", { class: "slots" }, ...one.slots.map(slot)));
}

function lane(one) {
  const oldest = one.oldest_created_at ? since(one.oldest_created_at) : "–";
  return el("tr", {}, head(LANES[one.lane] ?? one.lane), number(count(one.queued)), number(oldest));
}

function replica(one) {
  const state = one.draining ? el("span", { class: "status cancelled" }, word("leaving")) : null;
  return el("tr", {}, head(el("span", { title: one.name }, `${one.host} · ${one.address}`), " ", state),
    number(count(one.watchers)), number(since(one.since)));
}

function usage([owner, used]) {
  return el("tr", {}, head(owner), number(count(used.runs)), number(count(used.failed)),
    number(count(used.input_tokens + used.output_tokens)), number(money(used.cost_usd)));
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
