"""A CLI that does nothing but write a delta in each beat, with the moment of its writing; as cheap as Python goes.

Stands alone: it is copied, with an interpreter in its first line, and started with `-I -S`. The prompt is
`{"gate": path, "offset": seconds, "interval": seconds, "beats": number}`; the gate is a FIFO that nobody writes to:
opening it waits until the other side opens it, so all begin together when all are up.
"""

import json
import os
import sys
import time

STREAM = '{"type":"stream_event","session_id":"s","parent_tool_use_id":null,"uuid":"u","event":%s}\n'
OPENING = (
    '{"type":"system","subtype":"init","session_id":"s","model":"metronome","tools":[]}\n'
    + STREAM % '{"type":"message_start","message":{"id":"m","role":"assistant","content":[]}}'
    + STREAM % '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'
)
DELTA = STREAM % '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}'
UP = "@up@"
ENDING = (
    STREAM % '{"type":"content_block_stop","index":0}'
    + STREAM % '{"type":"message_stop"}'
    + '{"type":"result","subtype":"success","is_error":false,"result":"","stop_reason":"end_turn",'
    '"session_id":"s","num_turns":1,"total_cost_usd":0,"usage":{"input_tokens":1,"output_tokens":1}}\n'
)


def main() -> None:
    if "--version" in sys.argv:
        say("2.1.329 (Claude Code)\n")
        return
    content = json.loads(sys.stdin.buffer.readline())["message"]["content"]
    prompt = json.loads(content if isinstance(content, str) else content[0]["text"])
    say(OPENING + DELTA % UP)
    with open(prompt["gate"]):
        beat = time.monotonic() + prompt["offset"]
    for _ in range(prompt["beats"]):
        time.sleep(max(0.0, beat - time.monotonic()))
        say(DELTA % f"@{time.monotonic():.6f}@")
        beat += prompt["interval"]
    say(ENDING)


def say(text: str) -> None:
    os.write(1, text.encode())


if __name__ == "__main__":
    main()
