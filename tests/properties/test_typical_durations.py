"""What is expected of tests does not run away, however the runs before decide where the next ones go."""

import math
import random
import statistics

from hypothesis import given, settings
from hypothesis import strategies as st

from support.measured_runs import MeasuredRuns, lognormal

RUNS, TESTS, NOISE = 50, 60, 0.2
fleets = st.lists(st.sampled_from([1.0, 1.0, 1.5, 2.0, 4.0]), min_size=2, max_size=5)


@settings(max_examples=4, deadline=None)
@given(fleet=fleets, greed=st.sampled_from([0.0, 0.5, 0.9]), seed=st.integers(0, 1000))
def test_the_scale_of_expected_durations_does_not_drift_over_fifty_runs(fleet, greed, seed):
    """``greed``: this part of the tests goes where their expected duration sends it, long ones to what was found fast."""
    slowness = {f"w{number}": slow for number, slow in enumerate(fleet)}
    chance, history, usual_s = random.Random(seed), MeasuredRuns(), lognormal(TESTS)
    scales = []
    for _ in range(RUNS):
        queries = history.queries
        expected_s, found = (queries.expected_durations(), queries.slowness()) if history.runs else ({}, {})
        by_speed = sorted(slowness, key=lambda worker: found.get(worker, 1.0))
        longest_first = sorted(usual_s, key=lambda test: -expected_s.get(test, 1.0))
        attempts = []
        for number, test in enumerate(longest_first):
            is_sent = chance.random() < greed
            worker = by_speed[number * len(by_speed) // TESTS] if is_sent else chance.choice(by_speed)
            attempts.append((test, worker, usual_s[test] * slowness[worker] * chance.lognormvariate(0.0, NOISE)))
        history.add(attempts)
        expected_s = history.queries.expected_durations()
        scales.append(statistics.mean(math.log(expected_s[test] / usual_s[test]) for test in usual_s))
    # Between the fastest and the slowest machine, as what was measured is, and no further off later than soon.
    assert all(math.log(min(fleet)) - 0.15 < scale < math.log(max(fleet)) + 0.15 for scale in scales)
    early, late = statistics.mean(scales[5:15]), statistics.mean(scales[-10:])
    assert abs(late - early) < 0.15, scales
