export { EventStreamParser } from "./src/event-stream.js";
export { ConnectionLost, HeartlineError } from "./src/errors.js";
export { Heartline, answerAfter } from "./src/heartline.js";
