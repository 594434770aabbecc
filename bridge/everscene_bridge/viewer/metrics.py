"""The sidecar's `stats` (docs/protocol.md §5) as Prometheus metrics. Seconds and totals, as Prometheus wants them."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everscene_bridge.messages import DistributionMessage, Stats

STATES = ("starting", "live", "slow", "stalled", "restarting", "paused", "closing")

# name, unit factor, what it says; the key in `stats` comes first
COUNTERS = (
    ("frames", "everscene_frames", 1.0, "Frames published."),
    ("chunks", "everscene_chunks", 1.0, "Chunks generated."),
    ("dropped_chunks", "everscene_dropped_chunks", 1.0, "Chunks given up in flight for an event."),
    (
        "discarded_frames",
        "everscene_discarded_frames",
        1.0,
        "Frames generated and not shown, for an event or a way back.",
    ),
    ("held", "everscene_held_frame_periods", 1.0, "Frame periods in which the last frame had to stand."),
    ("shifted_ms", "everscene_clock_shift_seconds", 1e-3, "By how much late generation moved the content clock."),
    ("restarts", "everscene_restarts", 1.0, "Engine restarts after an error."),
    ("errors", "everscene_errors", 1.0, "Error messages sent to clients."),
)
GAUGES = (
    ("uptime_s", "everscene_uptime_seconds", 1.0, "Time since this epoch began."),
    ("fps", "everscene_fps", 1.0, "Frames published per second, over 5 s."),
    ("content_fps", "everscene_content_fps", 1.0, "Frames per second that the content asks for."),
    ("generation_fps", "everscene_generation_fps", 1.0, "Frames per second that generation alone reaches."),
    ("lead_ms", "everscene_lead_seconds", 1e-3, "Content that is decoded and not yet published."),
    ("clients", "everscene_clients", 1.0, "Clients connected now."),
)
OUTCOMES = ("accepted", "applied", "superseded", "rejected")


class StatsCollector(Collector):
    """Metrics of one `stats` message; None: the sidecar did not answer."""

    def __init__(self, stats: Stats | None, browsers: int) -> None:
        self.stats = stats
        self.browsers = browsers

    def collect(self) -> Iterator[Metric]:
        yield gauge("everscene_up", "Whether the sidecar answers.", 0.0 if self.stats is None else 1.0)
        yield gauge("everscene_viewer_browsers", "Pages open on this viewer.", float(self.browsers))
        if self.stats is None:
            return
        stats = self.stats
        for key, name, factor, says in COUNTERS:
            yield CounterMetricFamily(name, says, value=factor * getattr(stats, key))
        for key, name, factor, says in GAUGES:
            yield gauge(name, says, factor * getattr(stats, key))
        state = GaugeMetricFamily("everscene_state", "1 for the state the stream is in.", labels=["state"])
        for word in STATES:
            state.add_metric([word], float(stats.state == word))
        yield state
        inputs = CounterMetricFamily("everscene_inputs", "Events and prompts by outcome.", labels=["outcome"])
        for outcome in OUTCOMES:
            inputs.add_metric([outcome], getattr(stats.inputs, outcome))
        yield inputs
        yield gauge("everscene_inputs_waiting", "Accepted, not yet applied.", stats.inputs.waiting)
        yield distribution(
            "everscene_event_to_frame_seconds",
            "From an event's arrival to the first frame published under it.",
            [({}, stats.latency_ms)],
        )
        yield distribution(
            "everscene_event_to_seen_seconds",
            "From an event's arrival to a client's word that it showed the frame.",
            [({}, stats.seen_ms)],
        )
        yield distribution(
            "everscene_stage_seconds",
            "Time that each stage of the stream takes.",
            [({"stage": stage}, times) for stage, times in stats.stages_ms.items()],
        )


def gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(name, says, value=value)


def distribution(name: str, says: str, rows: Iterable[tuple[dict[str, str], DistributionMessage]]) -> Metric:
    """Rows of `{n, p50, p95, max}` in ms as a summary in seconds, quantiles over the last values only."""
    summary = Metric(name, says, "summary")
    for labels, times in rows:
        if times.n:
            for quantile, key in (("0.5", "p50"), ("0.95", "p95"), ("1", "max")):
                summary.add_sample(name, {**labels, "quantile": quantile}, getattr(times, key) / 1000)
        summary.add_sample(f"{name}_count", labels, times.n)
    return summary


def render(stats: Stats | None, browsers: int) -> bytes:
    """The text that /metrics answers with."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatsCollector(stats, browsers))
    return generate_latest(registry)
