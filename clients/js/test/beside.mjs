// The parser beside the eventsource-parser package, on the same bytes. Run as
//   node beside.mjs <where eventsource-parser's index.js is> <seed>

import assert from "node:assert/strict";
import { pathToFileURL } from "node:url";
import { EventStreamParser } from "../index.js";

const ROUNDS = 4000;
const { createParser } = await import(pathToFileURL(process.argv[2]).href);
const seed = Number(process.argv[3]);

/** mulberry32: the same numbers for the same seed. */
function numbers(state) {
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const PIECES = [
  "data", "data:", "data: ", "event", "event:", "event: ", "id", "id:", "id: ", "retry: 5", ":", ": heartbeat", " ", "a",
  "\n", "\n", "\r", "\r\n", "\n\n", "\r\n\r\n", "\r\r", "\0", "ü", "🙂", "\uFEFF", "\u2028", "x".repeat(300), "unknown: y", '{"seq":1}',
];

/** A stream, and the pieces in which its bytes come; a part of them is no UTF-8. */
function example(random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const text = Array.from({ length: 1 + random() * 150 }, () => pick(PIECES)).join("");
  // Both wait for what may follow a carriage return, in their own ways: so something follows.
  const bytes = new TextEncoder().encode(`${random() < 0.2 ? "\uFEFF" : ""}${text}:\n`);
  if (random() < 0.2) bytes[Math.floor(random() * (bytes.length - 2))] = 0x80 + Math.floor(random() * 0x80);
  const chunks = [];
  for (let start = 0; start < bytes.length; ) {
    const size = 1 + Math.floor(random() ** 3 * 60);
    chunks.push(bytes.subarray(start, start + size));
    start += size;
  }
  return chunks;
}

function ours(chunks) {
  const parser = new EventStreamParser();
  return chunks.flatMap((chunk) => parser.feed(chunk));
}

function theirs(chunks) {
  const events = [];
  const parser = createParser({ onEvent: ({ event = "message", data, id }) => events.push({ event, data, id }), onError: () => {} });
  const decoder = new TextDecoder();
  for (const chunk of chunks) parser.feed(decoder.decode(chunk, { stream: true }));
  return events;
}

const random = numbers(seed);
let events = 0;
for (let round = 0; round < ROUNDS; round++) {
  const chunks = example(random);
  const expected = theirs(chunks);
  assert.deepEqual(ours(chunks), expected, `seed ${seed}, round ${round}: ${JSON.stringify(Buffer.concat(chunks).toString())}`);
  events += expected.length;
}
assert.ok(events > ROUNDS, `only ${events} events`);
console.log(`${ROUNDS} streams with ${events} events`);
