"""Metrics as tests look at them: which there are, and what a process shows of them."""

from dataclasses import dataclass
from types import ModuleType

import httpx
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Known:
    """A metric in the code."""

    name: str
    kind: str
    labels: tuple[str, ...]

    @property
    def series(self) -> set[str]:
        """The names under which Prometheus has it."""
        return (
            {f"{self.name}_{part}" for part in ("bucket", "count", "sum")} if self.kind == "histogram" else {self.name}
        )


def of(module: ModuleType) -> list[Known]:
    """The metrics that a module makes, in its order."""
    found = []
    for value in vars(module).values():
        if isinstance(value, MetricWrapperBase):
            family = next(iter(value.describe()))
            name = family.name + ("_total" if family.type == "counter" else "")
            found.append(Known(name, family.type, tuple(value._labelnames)))
    return found


class Seen:
    """What a process has shown, by name and labels."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    @classmethod
    def at(cls, url: str, token: str = "") -> "Seen":
        """Read a process's metrics."""
        answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=30)
        answer.raise_for_status()
        return cls(answer.text)

    def __call__(self, name: str, **labels: str) -> float:
        """The value, or 0 for a series that there is not."""
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def sum(self, name: str, **labels: str) -> float:
        """Of all series of that name with these labels, among others."""
        wanted = frozenset(labels.items())
        return sum(value for (found, having), value in self._values.items() if found == name and wanted <= having)
