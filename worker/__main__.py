"""`python -m worker`: one worker process, configured by environment only. Owns the signals."""

import logging
import os
import signal
import sys
from types import FrameType

from core import collector, profiles, settings
from core.errors import ConfigurationError
from core.logs import configure
from worker import metrics, sandbox
from worker.cli import find
from worker.slots import Slots


def main() -> int:
    try:
        environ = settings.environment(os.environ)
        loaded = settings.load(environ)
        if not loaded.redis_url:
            raise ConfigurationError(
                "HEARTLINE_REDIS_URL is not set: a worker alone needs a Redis ('make run' starts one by itself)"
            )
        known = profiles.load(loaded.models_file, loaded.log_ttl_seconds)
        for profile in known.profiles:
            profiles.environment_of(profile, environ)
        needs_cli = any(profile.runner == "claude" for profile in known.profiles)
        claude_bin = find(loaded, environ) if needs_cli else ""
        confined = sandbox.choose(loaded, environ, claude_bin)
        sandbox.check(known.profiles, confined, loaded.state)
        metrics.serve(loaded)
    except ConfigurationError as error:
        print(f"heartline: {error}", file=sys.stderr)
        return 2
    configure(loaded.log_level, loaded.log_format)
    slots = Slots(loaded, known, claude_bin, environ, confined)

    def stop(number: int, _: FrameType | None) -> None:
        logging.getLogger(__name__).info("worker_signal signal=%s", signal.Signals(number).name)
        slots.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    collector.settle()
    slots.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
