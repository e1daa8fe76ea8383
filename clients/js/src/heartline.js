/** The client: runs and their events, and chats. */

import { Connection } from "./connection.js";
import { ConnectionLost, HeartlineError, mayPass } from "./errors.js";
import { Patience } from "./patience.js";

/**
 * @import { Abortable, ChatChunk, ChatRequest, NewRun, Options, Run, RunEvent, RunWithAnswer, StreamEvent } from "../index.js"
 */

const STEADY_SECONDS = 1;
const TERMINAL = new Set(["completed", "failed", "cancelled"]);

export class Heartline {
  #base;
  #apiKey;
  #fetch;
  #silenceSeconds;
  #patience;

  /** @param {Options} options */
  constructor({ baseUrl, apiKey, silenceSeconds = 45, patienceSeconds = 300, longestPauseSeconds = 10, fetch }) {
    this.#base = new URL(baseUrl).href.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#apiKey = apiKey;
    this.#silenceSeconds = silenceSeconds;
    this.#patience = { patienceSeconds, longestPauseSeconds };
    this.#fetch = fetch ?? globalThis.fetch.bind(globalThis);
  }

  /**
   * @param {NewRun} run
   * @param {Abortable & { idempotencyKey?: string }} [options]
   * @returns {Promise<Run>}
   */
  createRun(run, { signal, idempotencyKey = newKey() } = {}) {
    return this.#call("POST", "/v1/runs", { body: run, headers: { "Idempotency-Key": idempotencyKey }, signal });
  }

  /**
   * @param {string} runId
   * @param {Abortable} [options]
   * @returns {Promise<RunWithAnswer>}
   */
  getRun(runId, { signal } = {}) {
    return this.#call("GET", `/v1/runs/${encodeURIComponent(runId)}`, { signal });
  }

  /**
   * @param {Abortable & { limit?: number, before?: number }} [options]
   * @returns {Promise<Run[]>}
   */
  async listRuns({ signal, limit, before } = {}) {
    const query = new URLSearchParams();
    if (limit !== undefined) query.set("limit", String(limit));
    if (before !== undefined) query.set("before", String(before));
    return (await this.#call("GET", `/v1/runs?${query}`, { signal })).data;
  }

  /**
   * @param {string} runId
   * @param {Abortable} [options]
   * @returns {Promise<Run>}
   */
  cancel(runId, { signal } = {}) {
    return this.#call("POST", `/v1/runs/${encodeURIComponent(runId)}/cancel`, { signal });
  }

  /**
   * @param {string} runId
   * @param {Abortable & { after?: number }} [options]
   * @returns {AsyncGenerator<RunEvent, void, undefined>}
   */
  async *watch(runId, { signal, after = 0 } = {}) {
    const patience = new Patience(this.#patience);
    let cursor = after;
    for (;;) {
      /** @type {HeartlineError} */
      let trouble = new ConnectionLost("The stream ended before its run did.");
      const connection = this.#connection(signal);
      try {
        const url = `${this.#base}/v1/runs/${encodeURIComponent(runId)}/events?after=${cursor}`;
        const response = await connection.open(url, { headers: this.#headers() });
        if (response.status === 204) return; // the run has ended, and nothing lies behind the cursor
        for await (const frame of connection.events(response)) {
          const event = eventOf(frame, cursor);
          if (event === undefined) continue;
          patience.renew();
          if (event.type === "reset") cursor = 0;
          else if ("seq" in event) cursor = event.seq;
          if (frame.event !== "unrecognised") yield event;
          if (TERMINAL.has(event.type)) return;
        }
      } catch (error) {
        if (!mayPass(error)) throw error;
        trouble = error;
      } finally {
        connection.close();
      }
      if (connection.heardSeconds > STEADY_SECONDS) patience.renew(); // heartbeats are a life, too
      if (trouble instanceof ConnectionLost) Object.assign(trouble, { runId, after: cursor });
      await patience.pause(trouble, signal);
    }
  }

  /**
   * @param {ChatRequest} request
   * @param {Abortable} [options]
   * @returns {AsyncGenerator<ChatChunk, void, undefined>}
   */
  async *chat(request, { signal } = {}) {
    const connection = this.#connection(signal);
    let [runId, after] = ["", 0];
    try {
      const response = await connection.open(`${this.#base}/v1/chat/completions`, {
        method: "POST",
        headers: { ...this.#headers(), "Content-Type": "application/json" },
        body: JSON.stringify({ ...request, stream: true }),
      });
      runId = response.headers.get("X-Run-Id") ?? "";
      for await (const frame of connection.events(response)) {
        if (frame.data === "[DONE]") return;
        const chunk = parsed(frame);
        if (chunk.error) throw new HeartlineError(chunk.error.message, { status: 200, code: chunk.error.code });
        if (frame.id !== undefined) after = Number(frame.id);
        yield chunk;
      }
      throw new ConnectionLost("The stream ended before the answer did.");
    } catch (error) {
      if (error instanceof ConnectionLost) Object.assign(error, { runId, after });
      throw error;
    } finally {
      connection.close();
    }
  }

  /**
   * @param {ChatRequest} request
   * @param {Abortable} [options]
   * @returns {AsyncGenerator<string, void, undefined>}
   */
  async *chatText(request, options = {}) {
    for await (const chunk of this.chat(request, options)) {
      const text = chunk.choices?.[0]?.delta?.content;
      if (text) yield text;
    }
  }

  /**
   * The JSON of an answer. What breaks on the way is tried again: every request here may be sent twice.
   * @param {string} method
   * @param {string} path
   * @param {Abortable & { body?: unknown, headers?: Record<string, string> }} request
   * @returns {Promise<any>}
   */
  async #call(method, path, { body, headers = {}, signal }) {
    const patience = new Patience(this.#patience);
    const sent = body === undefined ? null : JSON.stringify(body);
    for (;;) {
      const connection = this.#connection(signal);
      try {
        const type = sent === null ? {} : { "Content-Type": "application/json" };
        const request = { method, headers: { ...this.#headers(), ...type, ...headers }, body: sent };
        return await connection.json(await connection.open(this.#base + path, request));
      } catch (error) {
        if (!mayPass(error)) throw error;
        await patience.pause(error, signal);
      } finally {
        connection.close();
      }
    }
  }

  #headers() {
    return { Authorization: `Bearer ${this.#apiKey}` };
  }

  /** @param {AbortSignal | undefined} signal */
  #connection(signal) {
    return new Connection({ fetch: this.#fetch, silenceSeconds: this.#silenceSeconds, signal });
  }
}

/**
 * The answer when this event has come, too.
 * @param {string} answer
 * @param {RunEvent} event
 * @returns {string}
 */
export function answerAfter(answer, event) {
  if (event.type === "text") return answer + event.text;
  if (event.type === "reset") return "";
  if (event.type !== "retracted") return answer;
  const characters = Array.from(answer);
  return characters.slice(0, characters.length - event.characters).join("");
}

/** crypto.randomUUID is not there on pages without TLS. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * A frame as an event; none for one that was seen before. Throws for what tells that events are missing.
 * @param {StreamEvent} frame
 * @param {number} cursor
 * @returns {RunEvent | undefined}
 */
function eventOf(frame, cursor) {
  const data = parsed(frame);
  if (frame.event === "lost") throw new HeartlineError(data.message, { status: 200, code: "log_lost" });
  if (frame.id === undefined) return { ...data, type: frame.event };
  if (data.seq <= cursor) return undefined;
  if (data.seq > cursor + 1) throw new ConnectionLost(`Event ${cursor + 1} is missing.`);
  return data;
}

/**
 * @param {StreamEvent} frame
 * @returns {any}
 */
function parsed(frame) {
  try {
    return JSON.parse(frame.data);
  } catch (error) {
    throw new ConnectionLost("The stream has something in it that is no JSON.", error);
  }
}
