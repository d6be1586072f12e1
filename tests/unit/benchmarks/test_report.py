"""Tables, comparisons and what an interrupted run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.compare import compare
from benchmarks.loads import round_trips
from benchmarks.plot import limits, plot
from benchmarks.results import Run, Sample, load, save
from benchmarks.rows import OWN, PLAIN, SOFTETHER, WIREGUARD
from benchmarks.session import duration, plan, remaining
from tests.unit.benchmarks.conftest import MakeRun


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return make_run({
        PLAIN: [{"up": 20.0, "down": 20.0, "ping": 0.05}, {"up": 22.0, "down": 21.0, "ping": 0.05}],
        OWN: [{"up": 8.0, "down": 7.0, "ping": 0.20}, {"up": 8.4, "down": 7.2, "ping": 0.21}],
        WIREGUARD: [{"up": 2.0, "down": 2.0}, {"up": 2.0, "down": 2.0}],
        SOFTETHER: ["vpnserver | is\nnot installed", "vpnserver | is\nnot installed"],
    })  # fmt: skip


def row_of(table: str, title: str) -> list[str]:
    [line] = [line for line in table.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_a_demand_says_what_was_reached_and_how_to_repeat_it(run: Run) -> None:
    cells = row_of(report.demands(run), "bulk TCP, own client, to the fastest peer")
    assert cells[1:] == [
        "up 4.1 (4-4.2); down 3.55 (3.5-3.6)", "≥ 2.5 ×", "≥ 5 ×", "reached",
        "8.20 to 2.00 of wireguard-go; 7.10 to 2.00 of wireguard-go", "`make bench ONLY=bulk`",
    ]  # fmt: skip


def test_what_failed_is_named_with_its_reason(run: Run) -> None:
    assert row_of(report.subjects(run), SOFTETHER)[1:3] == ["failed", "-"]
    assert report.failures(run) == f"- {SOFTETHER} failed in 2 of 2 rounds: vpnserver / is not installed"
    assert "not measured" in row_of(report.demands(run), "bulk TCP, NAT64 alone, to TAYGA")


def test_the_document_is_written_between_its_markers(run: Run, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(run, document)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "Measured 2026-11-21 on two cores, Linux 6.1.0: medians of 2 rounds" in text
    document.write_text("nothing")
    with pytest.raises(ValueError, match="has no place for the figures"):
        report.write(run, document)


def test_limits_of_the_plot_are_the_highest_that_a_row_asks(run: Run) -> None:
    assert limits(run, OWN, "up") == (5.0, 10.0)
    assert limits(run, WIREGUARD, "up") == (None, None)


def test_the_same_run_gives_the_same_plot(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(run, tmp_path / "a.svg")
    plot(run, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_run_is_kept_and_continued(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "kept" / "results.json"
    save(run, file)
    kept = load(file)
    assert kept == run and kept.continues(run)
    assert not kept.finished and kept.done(0, OWN) and not kept.done(1, SOFTETHER)
    kept.add(Sample(1, SOFTETHER, 1.0, {"up": 1.0}))
    assert kept.done(1, SOFTETHER) and len(kept.samples) == len(run.samples)
    kept.identity["native module"] = "1"
    assert not kept.continues(run)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "samples": [{}]}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="holds no results"):
        load(file)


def test_the_rest_is_estimated_by_what_was_measured(run: Run) -> None:
    """Two rounds of SoftEther are left, and no time is known of it but the estimate."""
    one = remaining(Run(1, 3, {SOFTETHER: ["up"]}, {}, "", []))
    assert remaining(run) == pytest.approx(2 * one)
    assert (duration(30), duration(600)) == ("30 s", "10 min")


def test_a_plan_has_what_the_rows_need_and_everything_without_rows() -> None:
    assert plan({OWN: {"ping"}, PLAIN: {"ping"}}) == {PLAIN: ["ping"], OWN: ["ping"]}
    assert len(plan(None)) > len(plan({OWN: {"ping"}}))


def test_two_runs_side_by_side(run: Run, make_run: MakeRun) -> None:
    after = make_run({OWN: [{"up": 9.0, "down": 7.1}, {"up": 9.2, "down": 6.9}]})
    lines = compare(run, after).splitlines()
    [up] = [line for line in lines if line.startswith(f"{OWN}: up")]
    [down] = [line for line in lines if line.startswith(f"{OWN}: down")]
    assert up.split()[-5:] == ["8.20", "9.10", "+11.0", "%", "better"]
    assert down.endswith("within the spread")
    assert compare(run, make_run({"other": [{"up": 1.0}]})) == "The two runs have no figure in common."


def test_round_trips_are_read_from_ping() -> None:
    line = "64 bytes from fd00:9::2: icmp_seq={} ttl=63 time={} ms\n"
    assert round_trips(line.format(1, "0.21") + line.format(2, "12")) == [0.21, 12.0]
