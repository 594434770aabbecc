"""The content clock under a hail of events, on a simulated clock."""

import random

import pytest
from tests.bridge.simulation import MS, Simulation


def test_recaches_for_every_chunk_slow_the_stream_evenly() -> None:
    """700 ms for a chunk of 500 ms: were the recaches left out of the pace, the picture would stand between chunks."""
    simulation = Simulation(recache_ms=300, forward_ms=80, decode_ms=10)
    for ms in range(1000, 12000, 20):
        simulation.prompt(ms, f"prompt {ms}")
    simulation.run(12000)
    gaps = simulation.gaps_ms[-64:]
    assert max(gaps) < 1.4 * sorted(gaps)[len(gaps) // 2]


def test_a_clean_pass_that_nobody_waits_for_counts_in_the_pace() -> None:
    """560 ms for a chunk of 500 ms, 160 of them after it was handed on."""
    simulation = Simulation(forward_ms=80, clean_ms=160, decode_ms=10)
    simulation.run(12000)
    gaps = simulation.gaps_ms[-64:]
    assert simulation.timeline.clock.slow
    assert max(gaps) < 1.1 * min(gaps)


def test_a_recache_now_and_then_does_not_slow_the_stream() -> None:
    simulation = Simulation(recache_ms=100, forward_ms=60, decode_ms=10)
    for ms in range(2000, 12000, 2000):
        simulation.event(ms, "storm" if ms % 4000 else "rain")
    simulation.run(12000)
    assert not simulation.timeline.clock.slow


@pytest.mark.parametrize(("recache", "forward", "decode"), [(150, 70, 40), (345, 86, 60), (50, 86, 40), (100, 50, 30)])
def test_nineteen_of_twenty_events_are_visible_within_the_bound(recache: float, forward: float, decode: float) -> None:
    """1.25 × (recache, chunk, decode of its first latent frame), at random times, as `everscene bench latency` asks."""
    simulation = Simulation(recache_ms=recache, forward_ms=forward, forwards=5, decode_ms=decode)
    chance = random.Random(0)
    simulation.run(4000)
    for number in range(60):
        simulation.prompt(simulation.now / MS + chance.uniform(0, 1000), f"prompt {number}")
        while len(simulation.outcomes) <= number:
            simulation.run(simulation.now / MS + 5)
    latencies = sorted(outcome.latency_ns / MS for outcome in simulation.outcomes)
    assert latencies[56] <= 1.25 * (recache + 5 * forward + decode / 2)
