// One run, live. The server's stream is the truth: it starts over with the page, and goes on where it broke.
import { Answer } from "./answer.js";
import { byId, el, show } from "./dom.js";
import { clock, count, duration, growing, money } from "./format.js";
import { Timeline } from "./timeline.js";
import { word } from "./words.js";

const RAW_SHOWN = 2000;
const AGAIN_SECONDS = 2;

const page = byId("run");
const path = `/v1/runs/${encodeURIComponent(page.dataset.id)}`;
const ahead = Number(page.dataset.now) - Date.now() / 1000; // of this browser's clock, the server's
const now = () => Date.now() / 1000 + ahead;

const answer = new Answer(byId("answer"), byId("spoken"));
const timeline = new Timeline(byId("timeline"));
const run = { status: "", createdAt: Number(page.dataset.created), startedAt: 0, endedAt: 0 };
let last = 0; // the seq of the newest event
let raw = [];
let live = false; // whether what comes is new, not what was there when the page was opened

// --- what the events mean ---------------------------------------------------------------------------

const MEANING = {
  started(event) {
    run.startedAt = event.at;
    timeline.start(event.at);
    show("worker", event.worker);
    show("waited", duration(event.at - run.createdAt));
    become("running");
  },
  session(event) {
    show("real-model", event.model);
  },
  text(event) {
    timeline.answering();
    answer.add(event.text);
  },
  retracted(event) {
    answer.retract(event.characters);
  },
  reasoning(event) {
    timeline.reasoning(event);
  },
  tool_started(event) {
    timeline.toolStarted(event);
    where(`${event.name} ${event.summary}`);
  },
  tool_finished(event) {
    timeline.toolFinished(event);
    where("");
  },
  api_retry(event) {
    const reason = event.http_status ? String(event.http_status) : word("no_answer");
    const words = word("retry", { reason, attempt: event.attempt, all: event.max_attempts, wait: duration(event.delay_seconds) });
    timeline.note(event.at, words);
    where(words);
  },
  compacting(event) {
    timeline.note(event.at, word("compacting"));
  },
  completed(event) {
    ended(event, "completed");
  },
  failed(event) {
    ended(event, "failed");
    problem(`${event.message} (${event.code})`);
  },
  cancelled(event) {
    ended(event, "cancelled");
    problem(word("stopped", { reason: event.reason }));
  },
};

function ended(event, status) {
  run.endedAt = event.at;
  timeline.end(event.at);
  const { usage } = event;
  show("input", count(usage.input_tokens));
  show("cached", count(usage.cached_input_tokens));
  show("output", count(usage.output_tokens));
  show("cost", money(usage.cost_usd));
  if (!run.startedAt) show("waited", duration(event.at - run.createdAt));
  where("");
  become(status);
}

function become(status) {
  if (status === run.status) return;
  run.status = status;
  const place = byId("status");
  place.textContent = word(status);
  place.className = `status ${status}`;
  const over = !["queued", "running"].includes(status);
  byId("cancel").hidden = over;
  answer.busy = status === "running";
  if (live) answer.say(word("run_is", { status: word(status) }));
}

const where = (text) => show("where", text);

function problem(text) {
  byId("failure").textContent = text;
  byId("failure").hidden = !text;
}

function startOver() {
  last = 0;
  raw = [];
  byId("raw-events").replaceChildren();
  answer.clear();
  timeline.clear();
  problem("");
}

// --- drawing -------------------------------------------------------------------------------------------

let due = false;

/** Once for all that has come since the last frame. */
function draw() {
  due = false;
  byId("work").hidden = timeline.empty;
  timeline.draw(run.endedAt || now());
  tick();
  if (live) answer.speak(Boolean(run.endedAt));
  else answer.skip();
  drawRaw();
}

function drawSoon() {
  if (!due) requestAnimationFrame(draw);
  due = true;
}

function tick() {
  const from = run.startedAt || run.createdAt;
  const took = run.endedAt ? duration(run.endedAt - from) : growing(now() - from);
  show("clock", run.startedAt || !run.endedAt ? (run.endedAt ? word("in_time", { time: took }) : word("for_time", { time: took })) : "");
  show("took", run.startedAt ? took : "–");
  if (run.status === "running") timeline.draw(now());
}

function drawRaw() {
  show("raw-count", count(last));
  const list = byId("raw-events");
  if (!byId("raw").open) return;
  for (const line of raw.slice(list.childElementCount)) list.append(el("li", {}, line));
}

function keepRaw(data) {
  if (raw.length < RAW_SHOWN) raw.push(data);
  else if (raw.length === RAW_SHOWN) raw.push(word("rest_at", { path: `${path}/events` }));
}

// --- following -----------------------------------------------------------------------------------------

function take(message) {
  const event = JSON.parse(message.data);
  if (event.seq <= last) return;
  last = event.seq;
  keepRaw(message.data);
  MEANING[event.type]?.(event);
  if (run.endedAt) source.close();
  drawSoon();
}

let source;

/** Follow from behind the newest event that is known. A broken connection the browser takes up by itself. */
function follow() {
  source = new EventSource(last ? `${path}/events?after=${last}` : `${path}/events`);
  for (const type of [...Object.keys(MEANING), "unrecognised"]) source.addEventListener(type, take);
  source.addEventListener("queued", (message) => {
    const { place } = JSON.parse(message.data);
    where(place ? word("place", { place }) : word("turn"));
  });
  source.addEventListener("reset", startOver);
  source.addEventListener("lost", (message) => {
    source.close();
    problem(JSON.parse(message.data).message);
  });
  source.addEventListener("error", givenUp);
}

/** The browser does not try again after an answer that is no stream, such as a proxy's that finds no server. */
async function givenUp() {
  if (run.endedAt || source.readyState !== EventSource.CLOSED) return;
  const state = await fetch(path).catch(() => null);
  if (state?.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  else if (state?.status === 404) problem(word("forgotten"));
  else setTimeout(follow, AGAIN_SECONDS * 1000);
}

follow();

byId("cancel").addEventListener("click", async () => {
  const button = byId("cancel");
  button.disabled = true;
  button.textContent = word("stopping");
  const done = await fetch(`${path}/cancel`, { method: "POST" }).catch(() => null);
  if (!done?.ok) {
    button.disabled = false;
    button.textContent = word("stop");
    problem(word("not_stopped"));
  }
});

// A page that is left may be kept as it is, for the way back, and its stream with it.
addEventListener("pagehide", () => source.close());
addEventListener("pageshow", (event) => event.persisted && location.reload());

byId("raw").addEventListener("toggle", drawRaw);
for (const time of document.querySelectorAll("time[data-at]")) time.textContent = clock(Number(time.dataset.at));
setTimeout(() => (live = true), 1500); // by then, what was there has come
setInterval(tick, 500);
become(page.dataset.status === "queued" ? "queued" : "running");
drawSoon();
