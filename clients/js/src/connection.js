/** One request and its answer: ended by the caller's signal, or by the watch-dog when no byte comes for too long. */

import { ConnectionLost, errorOf } from "./errors.js";
import { EventStreamParser } from "./event-stream.js";

/**
 * @import { StreamEvent } from "../index.js"
 * @typedef {{ fetch: typeof fetch, silenceSeconds: number, signal: AbortSignal | undefined }} Means
 */

export class Connection {
  #controller = new AbortController();
  #means;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #watchdog;
  #firstByteAt = 0;
  /** For how long bytes have come, in seconds. */
  heardSeconds = 0;
  #abort = () => this.#controller.abort(this.#means.signal?.reason);

  /** @param {Means} means */
  constructor(means) {
    this.#means = means;
    means.signal?.throwIfAborted();
    means.signal?.addEventListener("abort", this.#abort);
  }

  /**
   * The answer to a request; `close` must be called in the end. Throws a `HeartlineError` for one that is an error.
   * @param {string} url
   * @param {RequestInit} request
   * @returns {Promise<Response>}
   */
  async open(url, request) {
    this.#watch();
    const fetch = this.#means.fetch;
    const response = await this.#whole(() => fetch(url, { ...request, signal: this.#controller.signal }));
    if (!response.ok) throw await this.#whole(() => errorOf(response));
    return response;
  }

  /**
   * @param {Response} response
   * @returns {Promise<any>}
   */
  async json(response) {
    const text = await this.#whole(() => response.text());
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new ConnectionLost("The server's answer is no JSON.", error);
    }
  }

  /**
   * The events of an answer as they come.
   * @param {Response} response
   * @returns {AsyncGenerator<StreamEvent, void, undefined>}
   */
  async *events(response) {
    if (response.body === null) return;
    const reader = response.body.getReader();
    const parser = new EventStreamParser();
    for (;;) {
      const { done, value } = await this.#whole(() => reader.read());
      if (done) return;
      clearTimeout(this.#watchdog); // a consumer may take its time
      this.#firstByteAt ||= performance.now();
      this.heardSeconds = (performance.now() - this.#firstByteAt) / 1000;
      yield* parser.feed(value);
      this.#watch();
    }
  }

  /** Ends whatever is still going on. */
  close() {
    clearTimeout(this.#watchdog);
    this.#means.signal?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
  }

  #watch() {
    const { silenceSeconds } = this.#means;
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      this.#controller.abort(new ConnectionLost(`Nothing came for ${silenceSeconds} s.`));
    }, silenceSeconds * 1000);
  }

  /**
   * What a step gives. The caller's own abort stays what it is; whatever else breaks it is a lost connection.
   * @template T
   * @param {() => Promise<T>} step
   * @returns {Promise<T>}
   */
  async #whole(step) {
    try {
      return await step();
    } catch (error) {
      this.#means.signal?.throwIfAborted();
      if (error instanceof ConnectionLost) throw error;
      throw new ConnectionLost("The connection broke.", error);
    }
  }
}
