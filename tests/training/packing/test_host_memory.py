"""Idle memory is given back after growth, and only then."""

from __future__ import annotations

from ropo.training.packing.host_memory import SLACK, IdleMemory, idle_memory


def watched(sizes: list[int]) -> list[int]:
    """Return at which checks memory was given back, for resident sizes in turn; giving back frees half."""
    current, trims = {"size": sizes[0], "check": 0}, []

    def trim() -> None:
        trims.append(current["check"])
        current["size"] //= 2

    memory = IdleMemory(lambda: current["size"], trim)
    for current["check"], current["size"] in enumerate(sizes[1:]):
        memory.check()
    return trims


def test_growth_by_the_slack_gives_memory_back():
    assert watched([SLACK, 2 * SLACK, 2 * SLACK + 1]) == [1]


def test_growth_counts_from_what_giving_back_left():
    assert watched([SLACK, 3 * SLACK, 2 * SLACK, 5 * SLACK // 2, 5 * SLACK // 2 + 1]) == [0, 3]


def test_growth_counts_from_the_lowest_size_since():
    assert watched([4 * SLACK, SLACK, 2 * SLACK, 2 * SLACK + 1]) == [2]


def test_the_process_is_watched_where_there_is_glibc():
    memory = idle_memory()
    assert memory is idle_memory()
    if memory is not None:
        assert memory._resident() > 2**20
        memory._trim()
