/** What index.d.ts promises, held against what the JavaScript is: it only has to compile. */

import type * as promised from "../index.js";
import { ConnectionLost, HeartlineError } from "../src/errors.js";
import { EventStreamParser } from "../src/event-stream.js";
import { Heartline, answerAfter } from "../src/heartline.js";

type Constructor<Class extends abstract new (...given: never[]) => unknown> = new (
  ...given: ConstructorParameters<Class>
) => { [Name in keyof InstanceType<Class>]: InstanceType<Class>[Name] };

Heartline satisfies Constructor<typeof promised.Heartline>;
EventStreamParser satisfies Constructor<typeof promised.EventStreamParser>;
answerAfter satisfies typeof promised.answerAfter;

export const lost = (error: ConnectionLost): promised.ConnectionLost => error;
export const refused = (error: HeartlineError): promised.HeartlineError => error;

/** How a program uses it. */
export async function use(heartline: promised.Heartline): Promise<string> {
  const run = await heartline.createRun({ model: "claude-agent", prompt: "Hello" }, { signal: AbortSignal.timeout(1000) });
  let answer = "";
  for await (const event of heartline.watch(run.id, { after: 3 })) {
    switch (event.type) {
      case "tool_started":
        console.log(event.name.toUpperCase(), event.seq + 1);
        break;
      case "failed":
        throw new Error(event.message);
      case "queued":
        // @ts-expect-error: it is of the moment, and has no place in the log
        console.log(event.seq);
        break;
      default:
        answer += event.type === "text" ? event.text : "";
    }
  }
  for await (const piece of heartline.chatText({ messages: [{ role: "user", content: "Hello" }] })) answer += piece;
  return answer;
}
