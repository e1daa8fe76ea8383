/** A client of Heartline. Times are Unix seconds; every pause is in seconds. */

export type Status = "queued" | "running" | "completed" | "failed" | "cancelled";

export interface Run {
  id: string;
  object: "run";
  status: Status;
  model: string;
  profile: string;
  detach: boolean;
  conversation: string | null;
  parent: string | null;
  created_at: number;
  started_at: number | null;
  ended_at: number | null;
}

/** A run with its answer so far. */
export interface RunWithAnswer extends Run {
  answer: string;
  error: { code: string; message: string } | null;
  usage: Usage | null;
  last_seq: number;
}

export interface Usage {
  input_tokens: number;
  cached_input_tokens: number;
  output_tokens: number;
  cost_usd: number;
  turns: number;
}

interface Logged<Type extends string> {
  type: Type;
  run_id: string;
  /** 1, 2, 3 … without a hole. */
  seq: number;
  at: number;
}

export interface Started extends Logged<"started"> {
  worker: string;
}
export interface Session extends Logged<"session"> {
  session_id: string;
  model: string;
}
export interface Text extends Logged<"text"> {
  text: string;
}
/** So many characters (Unicode code points) at the end of the answer are void. */
export interface Retracted extends Logged<"retracted"> {
  characters: number;
}
export interface Reasoning extends Logged<"reasoning"> {
  text: string;
}
export interface ToolStarted extends Logged<"tool_started"> {
  tool_id: string;
  name: string;
  summary: string;
  input: string;
  parent_tool_id: string | null;
}
export interface ToolFinished extends Logged<"tool_finished"> {
  tool_id: string;
  output: string;
  is_error: boolean;
  truncated: boolean;
  parent_tool_id: string | null;
}
export interface ApiRetry extends Logged<"api_retry"> {
  attempt: number;
  max_attempts: number;
  delay_seconds: number;
  http_status: number | null;
}
export interface Compacting extends Logged<"compacting"> {}
export interface Completed extends Logged<"completed"> {
  stop_reason: string;
  usage: Usage;
}
export interface Failed extends Logged<"failed"> {
  code: string;
  message: string;
  usage: Usage;
}
export interface Cancelled extends Logged<"cancelled"> {
  reason: string;
  usage: Usage;
}

/** The run waits; of this moment, and not in the log. */
export interface Queued {
  type: "queued";
  /** 1 is the next one to start; null when it waits for another run of its conversation. */
  place: number | null;
  waits_for?: "conversation";
}
/** The stream starts over at event 1: forget what came before. Of this moment, and not in the log. */
export interface Reset {
  type: "reset";
  last_seq: number;
}

export type RunEvent =
  | Started
  | Session
  | Text
  | Retracted
  | Reasoning
  | ToolStarted
  | ToolFinished
  | ApiRetry
  | Compacting
  | Completed
  | Failed
  | Cancelled
  | Queued
  | Reset;

export interface Message {
  role: "user" | "assistant";
  text: string;
  images?: ReadonlyArray<{ media_type?: string; data?: string; url?: string }>;
}

export interface NewRun {
  model?: string;
  /** Either this or `messages`. */
  prompt?: string;
  messages?: ReadonlyArray<Message>;
  system?: string;
  /** With `prompt`: the id of a completed run, from which this one goes on. */
  parent?: string;
  /** Whether the run goes on when nobody watches it; true when left out. */
  detach?: boolean;
}

/** One of OpenAI's chunks, as far as it matters here. */
export interface ChatChunk {
  id: string;
  model: string;
  choices: Array<{
    index: number;
    delta: { role?: string; content?: string | null; reasoning_content?: string | null };
    finish_reason: string | null;
  }>;
  usage?: Record<string, unknown> | null;
  [field: string]: unknown;
}

export interface ChatRequest {
  model?: string;
  messages: ReadonlyArray<Record<string, unknown>>;
  [field: string]: unknown;
}

export interface Options {
  /** Where Heartline is, with or without /v1. */
  baseUrl: string;
  apiKey: string;
  /** After how long without a byte a connection is given up; 45, three heartbeats of the server's usual ones. */
  silenceSeconds?: number;
  /** For how long without a byte to try again before giving up; 300. */
  patienceSeconds?: number;
  /** The longest pause between two tries; 10. */
  longestPauseSeconds?: number;
  /** In place of the platform's own. */
  fetch?: typeof fetch;
}

export interface Abortable {
  signal?: AbortSignal | undefined;
}

export declare class Heartline {
  constructor(options: Options);
  /** Start a run. A connection that breaks is tried again: the `Idempotency-Key` keeps it one run. */
  createRun(run: NewRun, options?: Abortable & { idempotencyKey?: string }): Promise<Run>;
  getRun(runId: string, options?: Abortable): Promise<RunWithAnswer>;
  /** The key's runs, newest first; `before` takes the last one's `created_at`. */
  listRuns(options?: Abortable & { limit?: number; before?: number }): Promise<Run[]>;
  /** Stop a run; one that has ended stays as it is. */
  cancel(runId: string, options?: Abortable): Promise<Run>;
  /**
   * A run's events from behind `after` to its end, each once and in order, whatever happens to the connection.
   * Leaving the loop, or the signal, ends the watch and not the run, unless it was made with `detach: false`.
   */
  watch(runId: string, options?: Abortable & { after?: number }): AsyncGenerator<RunEvent, void, undefined>;
  /** A chat's chunks to its end. Leaving the loop, or the signal, stops the run. */
  chat(request: ChatRequest, options?: Abortable): AsyncGenerator<ChatChunk, void, undefined>;
  /** The same, as pieces of the answer's text. */
  chatText(request: ChatRequest, options?: Abortable): AsyncGenerator<string, void, undefined>;
}

/** The answer when this event has come, too. */
export declare function answerAfter(answer: string, event: RunEvent): string;

/** What the server refused, or how it failed. */
export declare class HeartlineError extends Error {
  /** Of the HTTP answer; 0 where there was none. */
  readonly status: number;
  readonly code: string;
  readonly param: string | null;
  /** How long the server asks to wait; 0 where it does not. */
  readonly retryAfterSeconds: number;
}

/** The connection broke or fell silent. A chat's run may be watched from there, when it was detached. */
export declare class ConnectionLost extends HeartlineError {
  runId: string;
  /** The `seq` of the last event that came. */
  after: number;
}

export interface StreamEvent {
  event: string;
  data: string;
  /** The id in this event's own lines, if it has one. */
  id: string | undefined;
}

/** An event stream's bytes in, its events out; by the letter of the HTML standard, however the bytes are cut. */
export declare class EventStreamParser {
  /** The events that are whole with these bytes. */
  feed(bytes: Uint8Array): StreamEvent[];
}
