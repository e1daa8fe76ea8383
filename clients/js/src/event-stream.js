/**
 * Event streams: bytes in, events out. Pure.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 *
 * @import { StreamEvent } from "../index.js"
 */

export class EventStreamParser {
  #decoder = new TextDecoder(); // takes a byte order mark away, and keeps the beginning of a cut character
  /** @type {string[]} what of a line has come: joined once, however long the line */
  #pieces = [];
  #afterReturn = false;
  /** @type {string[]} */
  #data = [];
  #event = "";
  /** @type {string | undefined} */
  #id = undefined;

  /**
   * The events that are whole with these bytes.
   * @param {Uint8Array} bytes
   * @returns {StreamEvent[]}
   */
  feed(bytes) {
    const text = this.#decoder.decode(bytes, { stream: true });
    /** @type {StreamEvent[]} */
    const events = [];
    if (text === "") return events;
    // A line feed behind a carriage return ends no line of its own, also when the two were cut apart.
    let start = this.#afterReturn && text[0] === "\n" ? 1 : 0;
    this.#afterReturn = text.endsWith("\r");
    const breaks = /\r\n|\n|\r/g;
    breaks.lastIndex = start;
    for (let found = breaks.exec(text); found !== null; found = breaks.exec(text)) {
      this.#pieces.push(text.slice(start, found.index));
      const line = this.#pieces.join("");
      this.#pieces = [];
      start = breaks.lastIndex;
      const event = line === "" ? this.#dispatch() : this.#take(line);
      if (event !== undefined) events.push(event);
    }
    if (start < text.length) this.#pieces.push(text.slice(start));
    return events;
  }

  /**
   * @param {string} line
   * @returns {undefined}
   */
  #take(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
  }

  /** @returns {StreamEvent | undefined} */
  #dispatch() {
    const event = { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id };
    const whole = this.#data.length > 0;
    this.#data = [];
    this.#event = "";
    this.#id = undefined;
    return whole ? event : undefined;
  }
}
