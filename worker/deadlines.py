"""When a run has taken too long: in all, in silence, or in one tool. Pure: time is passed in."""

from collections.abc import Iterable
from dataclasses import dataclass

from core import events
from core.events import Event


@dataclass(frozen=True)
class Overdue:
    """What was exceeded: the failure's code (also its sentence's key), the limit, the tool if it was one."""

    code: str
    seconds: float
    tool: str = ""


@dataclass
class _Tool:
    name: str
    heard_at: float


class Deadlines:
    """The clocks of one run. All times in seconds on one monotonic clock."""

    def __init__(self, now: float, *, run_seconds: float, stall_seconds: float, tool_seconds: float) -> None:
        self._run_seconds = run_seconds
        self._stall_seconds = stall_seconds
        self._tool_seconds = tool_seconds
        self._ends_at = now + run_seconds
        self._quiet_since = now
        self._tools: dict[str, _Tool] = {}

    def heard(self, new: Iterable[Event], now: float) -> None:
        """The CLI has printed something, of which these events came; there may be none."""
        self._quiet_since = max(self._quiet_since, now)
        for event in new:
            match event:
                case events.ToolStarted():
                    self._tools[event.tool_id] = _Tool(event.name, now)
                case events.ToolFinished():
                    self._tools.pop(event.tool_id, None)
                case events.ApiRetry():
                    self._quiet_since = now + event.delay_seconds  # a silence that was announced
            parent = self._tools.get(getattr(event, "parent_tool_id", None) or "")
            if parent is not None:
                parent.heard_at = now  # a sub-agent works on, and so does the tool that it is

    def left(self, now: float) -> float:
        """Seconds until something can become overdue."""
        return max(0.0, min(at for at, _ in self._due()) - now)

    def overdue(self, now: float) -> Overdue | None:
        """What has taken too long, if anything has."""
        at, what = min(self._due(), key=lambda due: due[0])
        return what if now >= at else None

    def _due(self) -> list[tuple[float, Overdue]]:
        whole = (self._ends_at, Overdue("timeout", self._run_seconds))
        if not self._tools:
            return [whole, (self._quiet_since + self._stall_seconds, Overdue("stalled", self._stall_seconds))]
        limit = self._tool_seconds
        return [whole] + [
            (tool.heard_at + limit, Overdue("tool_timeout", limit, tool.name)) for tool in self._tools.values()
        ]
