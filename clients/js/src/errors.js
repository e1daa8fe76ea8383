/** What can go wrong, and whether it may pass. */

export class HeartlineError extends Error {
  name = "HeartlineError";

  /**
   * @param {string} message
   * @param {{ status?: number, code?: string, param?: string | null, retryAfterSeconds?: number, cause?: unknown }} [facts]
   */
  constructor(message, { status = 0, code = "error", param = null, retryAfterSeconds = 0, cause } = {}) {
    super(message, { cause });
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

export class ConnectionLost extends HeartlineError {
  name = "ConnectionLost";
  runId = "";
  after = 0;

  /**
   * @param {string} message
   * @param {unknown} [cause]
   */
  constructor(message, cause) {
    super(message, { code: "connection_lost", cause });
  }
}

/**
 * The error that an HTTP answer is: Heartline's own, or a proxy's.
 * @param {Response} response
 * @returns {Promise<HeartlineError>}
 */
export async function errorOf(response) {
  const text = await response.text().catch(() => "");
  const { message, code, param } = errorObject(text) ?? {};
  return new HeartlineError(message ?? `The server answered ${response.status}.`, {
    status: response.status,
    code: code ?? "http_error",
    param: param ?? null,
    retryAfterSeconds: Number(response.headers.get("Retry-After")) || 0,
  });
}

/**
 * OpenAI's error object in this JSON, if it is one.
 * @param {string} text
 * @returns {{ message?: string, code?: string, param?: string } | undefined}
 */
function errorObject(text) {
  try {
    return JSON.parse(text)?.error;
  } catch {
    return undefined;
  }
}

/**
 * Whether to try again makes sense.
 * @param {unknown} error
 * @returns {error is HeartlineError}
 */
export function mayPass(error) {
  return error instanceof ConnectionLost || (error instanceof HeartlineError && (error.status === 429 || error.status >= 500));
}
