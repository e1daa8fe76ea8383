// The runs of one key, newest first.
import { byId, el, fill, runLink } from "./dom.js";
import { clock, duration, growing } from "./format.js";
import { getJson, keepTime, poll } from "./poll.js";
import { word } from "./words.js";

const PAGE = 30;
let older = [];
let newest = [];

const beat = keepTime(() => Date.now() / 1000, growing);

function row(run) {
  const took = run.ended_at ? duration(run.ended_at - (run.started_at ?? run.created_at)) : "";
  const since = !run.ended_at && run.started_at ? run.started_at : undefined;
  return el("tr", {},
    el("th", { scope: "row", "data-label": word("run") }, runLink(run.id)),
    el("td", { "data-label": word("status") }, el("span", { class: `status ${run.status}` }, word(run.status))),
    el("td", { "data-label": word("model") }, run.model),
    el("td", { "data-label": word("asked") }, el("time", {}, clock(run.created_at))),
    el("td", { "data-label": word("took"), class: "number" }, el("span", { "data-since": since }, took)));
}

function render() {
  const ids = new Set(newest.map((run) => run.id));
  const runs = [...newest, ...older.filter((run) => !ids.has(run.id))];
  fill(byId("runs"), runs, row);
  byId("none").hidden = runs.length > 0;
  beat();
  return runs;
}

byId("older").addEventListener("click", async () => {
  const last = render().at(-1);
  const page = (await getJson(`/v1/runs?limit=${PAGE}&before=${last.created_at}`)).data;
  older = [...older, ...page];
  byId("older").hidden = page.length < PAGE;
  render();
});

poll(async () => {
  const first = newest.length === 0;
  const page = (await getJson(`/v1/runs?limit=${PAGE}`)).data;
  const gone = newest.filter((run) => !page.some((other) => other.id === run.id));
  older = [...gone, ...older];
  newest = page;
  if (first) byId("older").hidden = page.length < PAGE;
  render();
}, 3);
