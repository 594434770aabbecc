"""The content clock under a hail of events, on a simulated clock."""

from tests.bridge.simulation import Simulation


def test_recaches_for_every_chunk_slow_the_stream_evenly() -> None:
    """700 ms for a chunk of 500 ms: were the recaches left out of the pace, the picture would stand between chunks."""
    simulation = Simulation(recache_ms=300, forward_ms=80, decode_ms=10)
    for ms in range(1000, 12000, 20):
        simulation.prompt(ms, f"prompt {ms}")
    simulation.run(12000)
    gaps = simulation.gaps_ms[-64:]
    assert max(gaps) < 1.4 * sorted(gaps)[len(gaps) // 2]


def test_a_recache_now_and_then_does_not_slow_the_stream() -> None:
    simulation = Simulation(recache_ms=100, forward_ms=60, decode_ms=10)
    for ms in range(2000, 12000, 2000):
        simulation.event(ms, "storm" if ms % 4000 else "rain")
    simulation.run(12000)
    assert not simulation.timeline.clock.slow
