// The client against two real replicas, through a network that cuts, freezes and shreds.
// Needs HEARTLINE_URL, HEARTLINE_OTHER_URL and HEARTLINE_KEY, and workers with the stand-in for the CLI.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ConnectionLost, Heartline, answerAfter } from "../index.js";
import { tcpProxy } from "./tcp-proxy.mjs";

const { HEARTLINE_URL: here, HEARTLINE_OTHER_URL: there, HEARTLINE_KEY: apiKey } = process.env;
const skip = here === undefined && "there is no server: HEARTLINE_URL is not set";
const LONG = JSON.stringify({ text: ["begun "], repeat: 2, interval: 600, child: 600 });
const WORDS = Array.from({ length: 60 }, (_, number) => `größer🙂${number} `);
const SLOWLY = JSON.stringify({ text: WORDS, interval: 0.03 });

const direct = skip ? undefined : new Heartline({ baseUrl: here, apiKey });
const proxies = [];
after(() => Promise.all(proxies.map((proxy) => proxy.close())));

/** A client behind a proxy of its own. */
async function through(fate, options = {}) {
  const proxy = await tcpProxy(fate);
  proxies.push(proxy);
  return { heartline: new Heartline({ baseUrl: proxy.url, apiKey, longestPauseSeconds: 0.2, ...options }), proxy };
}

async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

async function until(look) {
  const deadline = performance.now() + 20_000;
  while (!(await look())) {
    assert.ok(performance.now() < deadline, "not within 20 s");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const ended = (runId, status) => until(async () => (await direct.getRun(runId)).status === status);

/** The log's events, which must be whole, in order, each once, and the answer that was given. */
async function assertWhole(events, run, text) {
  const logged = events.filter((event) => "seq" in event);
  assert.deepEqual(logged.map((event) => event.seq), logged.map((_, index) => index + 1));
  assert.ok(logged.every((event) => event.run_id === run.id));
  assert.equal(logged.at(-1).type, "completed");
  assert.equal(events.reduce(answerAfter, ""), text);
  const kept = await direct.getRun(run.id);
  assert.deepEqual([kept.answer, kept.last_seq, kept.status], [text, logged.length, "completed"]);
}

test("a run from its creation to its end", { skip }, async () => {
  const run = await direct.createRun({ model: "chat", prompt: "Hello you" });
  const events = await all(direct.watch(run.id));
  await assertWhole(events, run, "Hello you");
  assert.equal((await direct.listRuns({ limit: 1 }))[0].id, run.id);
  assert.deepEqual(await all(direct.watch(run.id, { after: events.at(-1).seq })), []);
});

test("connections that are cut again and again, on one replica and the other", { skip }, async () => {
  const { heartline, proxy } = await through((count) => ({ target: count % 2 ? there : here, cutAfter: 1500 + 37 * count }));
  const run = await direct.createRun({ prompt: SLOWLY });
  await assertWhole(await all(heartline.watch(run.id)), run, WORDS.join(""));
  assert.ok(proxy.asked() > 3, `${proxy.asked()} connections`);
});

test("bytes that come by sevens", { skip }, async () => {
  const { heartline } = await through(() => ({ target: here, shred: 7 }));
  const run = await heartline.createRun({ prompt: JSON.stringify({ text: WORDS }) });
  await assertWhole(await all(heartline.watch(run.id)), run, WORDS.join(""));
});

test("an answer of megabytes", { skip }, async () => {
  const run = await direct.createRun({ prompt: JSON.stringify({ text: ["x"], repeat: 3, size: 1 << 20 }) });
  await assertWhole(await all(direct.watch(run.id)), run, "x".repeat(3 << 20));
});

test("a connection that freezes", { skip }, async () => {
  const fate = (count) => (count === 0 ? { target: here, freezeAfter: 1500 } : { target: there });
  const { heartline, proxy } = await through(fate, { silenceSeconds: 1.5 });
  const run = await direct.createRun({ prompt: SLOWLY });
  await assertWhole(await all(heartline.watch(run.id)), run, WORDS.join(""));
  assert.equal(proxy.asked(), 2);
});

test("a run that says nothing for a while is kept alive by heartbeats", { skip }, async () => {
  const { heartline, proxy } = await through(() => ({ target: here }), { silenceSeconds: 1.5 });
  const run = await direct.createRun({ prompt: JSON.stringify({ sleep_before: 4, text: ["late"] }) });
  await assertWhole(await all(heartline.watch(run.id)), run, "late");
  assert.equal(proxy.asked(), 1);
});

test("a cursor that lies behind the end starts over", { skip }, async () => {
  const run = await direct.createRun({ prompt: "again" });
  const first = await all(direct.watch(run.id));
  const events = await all(direct.watch(run.id, { after: 999 }));
  assert.deepEqual(events[0], { type: "reset", last_seq: first.at(-1).seq });
  await assertWhole(events.slice(1), run, "again");
});

test("a run that is cancelled", { skip }, async () => {
  const run = await direct.createRun({ prompt: LONG });
  const types = [];
  for await (const event of direct.watch(run.id)) {
    types.push(event.type);
    if (event.type === "text") assert.equal((await direct.cancel(run.id)).id, run.id);
  }
  assert.equal(types.at(-1), "cancelled");
  assert.equal((await direct.cancel(run.id)).status, "cancelled");
});

test("a run that is not detached ends when its watch is aborted", { skip }, async () => {
  const run = await direct.createRun({ prompt: LONG, detach: false });
  const watching = new AbortController();
  const reason = new Error("enough");
  await assert.rejects(async () => {
    for await (const event of direct.watch(run.id, { signal: watching.signal })) {
      if (event.type === "text") watching.abort(reason);
    }
  }, reason);
  await ended(run.id, "cancelled");
});

test("a chat, read to its end and left", { skip }, async () => {
  const messages = [{ role: "user", content: "Hello you" }];
  assert.equal((await all(direct.chatText({ model: "chat", messages }))).join(""), "Hello you");
  let id = "";
  for await (const chunk of direct.chat({ messages: [{ role: "user", content: LONG }] })) {
    id = chunk.id;
    if (chunk.choices[0]?.delta.content) break;
  }
  await ended(id.replace("chatcmpl-", ""), "cancelled");
});

test("a chat that is cut can be watched from there", { skip }, async () => {
  const { heartline } = await through(() => ({ target: here, cutAfter: 4000 }));
  const messages = [{ role: "user", content: SLOWLY }];
  let text = "";
  const lost = await (async () => {
    for await (const piece of heartline.chatText({ messages })) text += piece;
  })().catch((error) => error);
  assert.ok(lost instanceof ConnectionLost && text.length > 0);
  const rest = await all(direct.watch(lost.runId, { after: lost.after }));
  assert.equal(rest.reduce(answerAfter, text), WORDS.join(""));
  assert.equal(rest.at(-1).type, "completed");
});

test("a key that is not the server's", { skip }, async () => {
  const stranger = new Heartline({ baseUrl: here, apiKey: "not-a-key-of-this-server" });
  await assert.rejects(stranger.createRun({ prompt: "Hello" }), { status: 401, code: "invalid_api_key" });
  await assert.rejects(direct.createRun({ prompt: "" }), { status: 400, param: "prompt" });
  await assert.rejects(all(direct.watch("0".repeat(32))), { status: 404, code: "run_not_found" });
});
