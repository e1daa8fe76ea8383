"""A program that stands in the CLI's place and counts 0 to 9, one a second. Needs the standard library only.

It prints what the CLI would print, so that it takes the whole way: process, pipe, log, channel, relay.
"""

import json
import sys
import time
from typing import Any

COUNT = 10
SECONDS_EACH = 1.0
MESSAGE = "msg_diagnostic"


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def stream(event: dict[str, Any]) -> None:
    say({"type": "stream_event", "event": event, "parent_tool_use_id": None})


def main() -> None:
    sys.stdin.readline()
    say({"type": "system", "subtype": "init", "session_id": MESSAGE, "model": "diagnostic"})
    stream({"type": "message_start", "message": {"id": MESSAGE}})
    stream({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    for number in range(COUNT):
        if number:
            time.sleep(SECONDS_EACH)
        text = f" {number}" if number else "0"
        stream({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
    usage = {"input_tokens": 0, "output_tokens": COUNT}
    say({"type": "result", "subtype": "success", "is_error": False, "num_turns": 1, "usage": usage})


if __name__ == "__main__":
    main()
