// The parser, by the letter of the standard, however the bytes are cut.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EventStreamParser } from "../index.js";

const encoder = new TextEncoder();

function parse(text, size = Infinity) {
  const bytes = typeof text === "string" ? encoder.encode(text) : text;
  const parser = new EventStreamParser();
  const events = [];
  for (let start = 0; start < bytes.length; start += size) events.push(...parser.feed(bytes.subarray(start, start + size)));
  return events;
}

const message = (data, id = undefined) => ({ event: "message", data, id });

const TRICKY = '\uFEFF: comment\r\nid: 1\revent: text\ndata: grüß 🙂 dich\r\n\r\ndata\ndata:  two\ndata:three:\n\nid\rdata:x\r\rretry: 9\n\n';
const EVENTS = [
  { event: "text", data: "grüß 🙂 dich", id: "1" },
  message("\n two\nthree:"),
  message("x", ""),
];

test("a stream with all line ends, a byte order mark and comments, cut at every length", () => {
  for (let size = 1; size <= encoder.encode(TRICKY).length; size++) assert.deepEqual(parse(TRICKY, size), EVENTS, `${size}`);
});

for (const [name, end] of [["CR", "\r"], ["LF", "\n"], ["CRLF", "\r\n"]]) {
  test(`${name} ends a line, and two of them an event, at once`, () => {
    const bytes = encoder.encode(`data: a${end}data: b${end}${end}`);
    const parser = new EventStreamParser();
    const last = end === "\r\n" ? 1 : 0; // CR has ended the line already: its LF is not waited for
    assert.deepEqual(parser.feed(bytes.subarray(0, bytes.length - last)), [message("a\nb")]);
    assert.deepEqual(parser.feed(bytes.subarray(bytes.length - last)), []);
    assert.deepEqual(parser.feed(encoder.encode(`data: c${end}${end}`)), [message("c")]);
  });
}

test("only the first byte order mark is none of the text", () => {
  assert.deepEqual(parse("\uFEFFdata: a\n\n\uFEFFdata: b\n\ndata: \uFEFF\n\n", 1), [message("a"), message("\uFEFF")]);
});

test("an id with a NUL is none, and an unknown field is nothing", () => {
  assert.deepEqual(parse("id: 1\nid: 2\0\ncolour: blue\ndata: a\n\n"), [message("a", "1")]);
});

test("an event without data is none, and one that is not whole neither", () => {
  assert.deepEqual(parse("event: empty\nid: 4\n\ndata: a\n\ndata: never"), [message("a")]);
});

test("a line separator of JavaScript's is text", () => {
  assert.deepEqual(parse("data: a\u2028b\u0085c\n\n", 1), [message("a\u2028b\u0085c")]);
});

test("bytes that are no UTF-8 become the replacement character", () => {
  assert.deepEqual(parse(Uint8Array.from([...encoder.encode("data: "), 0xff, ...encoder.encode("\n\n")])), [message("\uFFFD")]);
});

test("a huge event in small pieces takes time in proportion", () => {
  const data = "x".repeat(16 << 20);
  const begun = performance.now();
  assert.equal(parse(`data: ${data}\n\n`, 4096)[0].data.length, data.length);
  assert.ok(performance.now() - begun < 20_000); // in the square of its size, it would take hours
});
