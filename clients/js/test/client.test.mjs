// The client on answers that are made here: what a server would hardly ever do.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionLost, Heartline, HeartlineError, answerAfter } from "../index.js";

const encoder = new TextEncoder();
const TEXT = (seq, text = `${seq},`) => `id: ${seq}\nevent: text\ndata: ${JSON.stringify({ type: "text", run_id: "r", seq, at: 0, text })}\n\n`;
const COMPLETED = (seq) => `id: ${seq}\nevent: completed\ndata: ${JSON.stringify({ type: "completed", run_id: "r", seq, at: 0 })}\n\n`;
const SILENT = Symbol("nothing more comes, and the connection stays open");
const BROKEN = Symbol("the connection breaks");

/** An answer that is an event stream of these parts. */
function stream(...parts) {
  return (signal) => {
    let next = 0;
    const body = new ReadableStream({
      start(controller) {
        signal.addEventListener("abort", () => controller.error(signal.reason));
      },
      pull(controller) {
        const part = parts[next++];
        if (part === undefined) controller.close();
        else if (part === BROKEN) controller.error(new TypeError("terminated"));
        else if (part !== SILENT) controller.enqueue(typeof part === "string" ? encoder.encode(part) : part);
        else return new Promise(() => {});
      },
    });
    return new Response(body, { headers: { "X-Run-Id": "r" } });
  };
}

const json = (status, body, headers = {}) => () => new Response(JSON.stringify(body), { status, headers });
const error = (status, code, headers) => json(status, { error: { message: `${code}!`, type: "t", param: "p", code } }, headers);
const away = () => {
  throw new TypeError("fetch failed");
};

/** A client whose requests get these answers in turn, and the requests. */
function client(answers, options = {}) {
  const asked = [];
  const fetch = async (url, request) => {
    request.signal.throwIfAborted();
    asked.push({ url: String(url), ...request });
    assert.ok(answers.length > 0, "one request too many");
    return answers.shift()(request.signal);
  };
  const heartline = new Heartline({
    baseUrl: "http://heartline.test/v1/",
    apiKey: "k",
    longestPauseSeconds: 0.01,
    fetch,
    ...options,
  });
  return { heartline, asked };
}

async function all(events) {
  const found = [];
  for await (const event of events) found.push(event);
  return found;
}

const seqs = (events) => events.map((event) => event.seq ?? event.type);
const cursors = (asked) => asked.map(({ url }) => Number(new URL(url).searchParams.get("after")));

test("reads a run to its end, without what is no event", async () => {
  const { heartline, asked } = client([stream("retry: 500\n: watching\n\n", TEXT(1), ": heartbeat\n\n", TEXT(2) + COMPLETED(3), TEXT(4))]);
  assert.deepEqual(seqs(await all(heartline.watch("r"))), [1, 2, 3]);
  assert.equal(asked[0].url, "http://heartline.test/v1/runs/r/events?after=0");
  assert.equal(asked[0].headers.Authorization, "Bearer k");
});

test("goes on behind the last event after every kind of break", async () => {
  const { heartline, asked } = client([
    stream(TEXT(1), TEXT(2), BROKEN),
    away,
    error(503, "unavailable", { "Retry-After": "0" }),
    () => new Response("<h1>Bad Gateway</h1>", { status: 502 }),
    stream(": watching\n\n"), // a replica that is being restarted
    stream(TEXT(3), "id: 4\nevent: te"),
    stream(COMPLETED(4)),
  ]);
  assert.deepEqual(seqs(await all(heartline.watch("r"))), [1, 2, 3, 4]);
  assert.deepEqual(cursors(asked), [0, 2, 2, 2, 2, 2, 3]);
});

test("an event that comes twice is told once, and a missing one is fetched", async () => {
  const { heartline, asked } = client([stream(TEXT(1), TEXT(1), TEXT(2), TEXT(4)), stream(TEXT(2), TEXT(3), TEXT(4), COMPLETED(5))]);
  assert.deepEqual(seqs(await all(heartline.watch("r"))), [1, 2, 3, 4, 5]);
  assert.deepEqual(cursors(asked), [0, 2]);
});

test("a reset starts over, and says so", async () => {
  const reset = 'event: reset\ndata: {"last_seq": 2}\n\n';
  const { heartline, asked } = client([stream(reset, TEXT(1), BROKEN), stream(TEXT(2), COMPLETED(3))]);
  const events = await all(heartline.watch("r", { after: 9 }));
  assert.deepEqual(seqs(events), ["reset", 1, 2, 3]);
  assert.equal(events.reduce(answerAfter, "forget me "), "1,2,");
  assert.deepEqual(cursors(asked), [9, 1]);
});

test("204 is the end", async () => {
  const { heartline } = client([() => new Response(null, { status: 204 })]);
  assert.deepEqual(await all(heartline.watch("r", { after: 7 })), []);
});

test("a place in the queue is told, and an event from a newer worker is passed over", async () => {
  const queued = 'event: queued\ndata: {"place": 2}\n\n';
  const newer = 'id: 1\nevent: unrecognised\ndata: {"type":"new","run_id":"r","seq":1,"at":0}\n\n';
  const { heartline } = client([stream(queued, newer, COMPLETED(2))]);
  const events = await all(heartline.watch("r"));
  assert.deepEqual(events[0], { type: "queued", place: 2 });
  assert.deepEqual(seqs(events), ["queued", 2]);
});

test("a lost log and a refused key are errors, and nothing is tried again", async () => {
  const lost = client([stream('event: lost\ndata: {"message": "gone"}\n\n')]);
  await assert.rejects(all(lost.heartline.watch("r")), { name: "HeartlineError", code: "log_lost", message: "gone" });
  const refused = client([error(401, "invalid_api_key")]);
  await assert.rejects(all(refused.heartline.watch("r")), { status: 401, code: "invalid_api_key", param: "p" });
  assert.equal(refused.asked.length, 1);
});

test("silence is noticed, and another connection goes on", async () => {
  const unanswered = (signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  const { heartline, asked } = client([stream(TEXT(1), SILENT), unanswered, stream(COMPLETED(2))], { silenceSeconds: 0.05 });
  assert.deepEqual(seqs(await all(heartline.watch("r"))), [1, 2]);
  assert.deepEqual(cursors(asked), [0, 1, 1]);
});

test("heartbeats are no silence", async () => {
  const slowly = (signal) => {
    let count = 0;
    const body = new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        controller.enqueue(encoder.encode(count++ < 10 ? ": heartbeat\n\n" : COMPLETED(1)));
      },
    });
    signal.addEventListener("abort", () => assert.equal(count, 11, "given up"));
    return new Response(body);
  };
  const { heartline, asked } = client([slowly], { silenceSeconds: 0.5 });
  assert.deepEqual(seqs(await all(heartline.watch("r"))), [1]);
  assert.equal(asked.length, 1);
});

test("a consumer that takes its time is no silence", async () => {
  const { heartline, asked } = client([stream(TEXT(1), TEXT(2), COMPLETED(3))], { silenceSeconds: 0.05 });
  const found = [];
  for await (const event of heartline.watch("r")) {
    found.push(event);
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  assert.deepEqual(seqs(found), [1, 2, 3]);
  assert.equal(asked.length, 1);
});

test("gives up when nothing has worked for long enough, and says where it was", async () => {
  const { heartline } = client([stream(TEXT(1), BROKEN), ...Array(1000).fill(away)], { patienceSeconds: 0.1 });
  await assert.rejects(all(heartline.watch("r")), (failure) => {
    assert.ok(failure instanceof ConnectionLost && failure instanceof HeartlineError);
    assert.deepEqual([failure.runId, failure.after, failure.code], ["r", 1, "connection_lost"]);
    return true;
  });
});

test("an abort ends everything at once, with its own reason", async () => {
  const reason = new Error("enough");
  const reading = new AbortController();
  const { heartline, asked } = client([stream(TEXT(1), SILENT)]);
  const events = heartline.watch("r", { signal: reading.signal });
  assert.equal((await events.next()).value.seq, 1);
  setTimeout(() => reading.abort(reason), 20);
  await assert.rejects(events.next(), reason);
  assert.ok(asked[0].signal.aborted);

  const pausing = new AbortController();
  const stubborn = client([away, away], { longestPauseSeconds: 600 });
  setTimeout(() => pausing.abort(reason), 50);
  await assert.rejects(all(stubborn.heartline.watch("r", { signal: pausing.signal })), reason);

  const before = client([]);
  await assert.rejects(before.heartline.getRun("r", { signal: AbortSignal.abort(reason) }), reason);
  await assert.rejects(all(before.heartline.chat({ messages: [] }, { signal: AbortSignal.abort(reason) })), reason);
});

test("leaving the loop closes the connection", async () => {
  const { heartline, asked } = client([stream(TEXT(1), SILENT)]);
  for await (const _ of heartline.watch("r")) break;
  assert.ok(asked[0].signal.aborted);
});

test("a run that is created again is the same one", async () => {
  const { heartline, asked } = client([away, json(201, { id: "r" })]);
  assert.deepEqual(await heartline.createRun({ prompt: "Hello" }), { id: "r" });
  const keys = asked.map(({ headers }) => headers["Idempotency-Key"]);
  assert.match(keys[0], /^[0-9a-f]{32}$/);
  assert.equal(keys[0], keys[1]);
  assert.deepEqual(JSON.parse(asked[1].body), { prompt: "Hello" });
});

test("a full line is waited for as long as the server asks", async () => {
  const { heartline } = client([error(429, "too_many_queued_runs", { "Retry-After": "1" }), json(201, { id: "r" })]);
  const begun = performance.now();
  await heartline.createRun({ prompt: "Hello" });
  assert.ok(performance.now() - begun >= 950);
});

test("the answer counts retracted characters as code points", () => {
  const events = [{ type: "text", text: "a🙂ü🙂" }, { type: "retracted", characters: 2 }, { type: "text", text: "!" }];
  assert.equal(events.reduce(answerAfter, ""), "a🙂!");
  assert.equal([{ type: "retracted", characters: 0 }].reduce(answerAfter, "a"), "a");
});

const chunk = (content, seq) => `id: ${seq}\ndata: ${JSON.stringify({ id: "chatcmpl-r", choices: [{ delta: { content } }] })}\n\n`;

test("a chat is its pieces of text", async () => {
  const usage = 'data: {"id":"chatcmpl-r","choices":[],"usage":{}}\n\n';
  const { heartline, asked } = client([stream(": queued, place 1\n\n", chunk("a", 3), chunk("", 4), chunk("b", 5), usage, "data: [DONE]\n\n")]);
  assert.deepEqual(await all(heartline.chatText({ model: "m", messages: [] })), ["a", "b"]);
  assert.deepEqual(JSON.parse(asked[0].body), { model: "m", messages: [], stream: true });
});

test("a chat that fails on its way is an error with the server's words", async () => {
  const failure = 'data: {"error":{"message":"too slow","type":"server_error","param":null,"code":"timeout"}}\n\ndata: [DONE]\n\n';
  const { heartline } = client([stream(chunk("a", 1), failure)]);
  await assert.rejects(all(heartline.chat({ messages: [] })), { message: "too slow", code: "timeout" });
});

for (const [name, ...last] of [["breaks", BROKEN], ["ends too soon"], ["falls silent", SILENT]]) {
  test(`a chat that ${name} says where its run can be watched from`, async () => {
    const { heartline } = client([stream(chunk("a", 7), ...last)], { silenceSeconds: 0.05 });
    await assert.rejects(all(heartline.chatText({ messages: [] })), { name: "ConnectionLost", runId: "r", after: 7 });
  });
}
