/** When to try again, and when to give up. */

const FIRST_PAUSE_SECONDS = 0.25;

export class Patience {
  #tries = 0;
  /** @type {number | undefined} since when nothing works */
  #since;
  #patienceSeconds;
  #longestPauseSeconds;

  /** @param {{ patienceSeconds: number, longestPauseSeconds: number }} options */
  constructor({ patienceSeconds, longestPauseSeconds }) {
    this.#patienceSeconds = patienceSeconds;
    this.#longestPauseSeconds = longestPauseSeconds;
  }

  /** It works again: the next pause is a short one. */
  renew() {
    this.#tries = 0;
    this.#since = undefined;
  }

  /**
   * Pauses before the next try, each time for longer, and never all clients for the same time.
   * Throws the error when it has gone on for too long.
   * @param {import("./errors.js").HeartlineError} error
   * @param {AbortSignal | undefined} signal
   */
  async pause(error, signal) {
    this.#since ??= performance.now();
    if (performance.now() - this.#since > this.#patienceSeconds * 1000) throw error;
    const longest = Math.min(this.#longestPauseSeconds, FIRST_PAUSE_SECONDS * 2 ** this.#tries++);
    await sleep(Math.max(longest * (0.5 + Math.random() / 2), error.retryAfterSeconds), signal);
  }
}

/**
 * @param {number} seconds
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<void>}
 */
function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

