"""Growth of counters over a sliding window."""

from __future__ import annotations

from portico.server.health.window import Window


def test_growth_is_that_of_the_window() -> None:
    window = Window(600.0)
    for second in range(0, 2000, 5):
        window.add(float(second), {"a": float(second), "still": 7.0})
    assert 590 <= window.growth()["a"] <= 610
    assert "still" not in window.growth()


def test_the_first_value_is_where_counting_begins_also_of_a_late_counter() -> None:
    window = Window(600.0)
    window.add(0.0, {"a": 5000.0})
    window.add(5.0, {"a": 5001.0, "b": 900.0})
    window.add(10.0, {"b": 902.0})
    assert window.growth() == {"a": 1.0, "b": 2.0}


def test_a_restart_counts_from_zero_and_loses_nothing() -> None:
    window = Window(600.0)
    for at, value in ((0.0, 100.0), (5.0, 110.0), (10.0, 3.0), (15.0, 4.0)):
        window.add(at, {"a": value})
    assert window.growth() == {"a": 14.0}


def test_what_is_old_is_forgotten_also_without_growth() -> None:
    window = Window(60.0)
    window.add(0.0, {"a": 0.0})
    window.add(5.0, {"a": 50.0})
    assert window.growth() == {"a": 50.0}
    window.add(100.0, {"a": 50.0})
    assert window.growth() == {}
