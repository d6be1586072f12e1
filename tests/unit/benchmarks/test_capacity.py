"""The table of capacity: what Microsoft published first, then what was measured here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.capacity import published, report
from benchmarks.capacity.scenarios import Row

ROWS = [
    Row("750 clients, 79 Mbit/s", 750, internal=80.0, internet=85.0, cores=0.04, more={"answer_p50_ms": 0.25}),
    Row("10,000 idle clients", 10_000, cores=0.0, kib_per_tunnel=7.46, more={"lost": 0}),
    Row("500,000 NAT64 bindings", 125, more={"bindings": 499_990, "bytes_per_binding": 122.4}),
]


def test_microsofts_figures_stand_beside_ours() -> None:
    lines = report.table(ROWS).splitlines()
    theirs = [line for line in lines if line.startswith("| DirectAccess: ")]
    assert len(theirs) == len(published.SCENARIOS)
    assert theirs[0].endswith("| 750 | 46% of 4 cores | 84 | 119 | - | 404 | 45 |")
    assert "| Portico: 750 clients, 79 Mbit/s | 750 | 4% of one core | 80 | 85 | - | 18,750 | 2,000 |" in lines
    assert "| Portico: 10,000 idle clients | 10,000 | 0% of one core | - | - | 7.5 | - | - |" in lines
    assert "- 500,000 NAT64 bindings: 499,990 bindings, 122 bytes each." in lines
    assert not any(line.startswith("| Portico: 500,000") for line in lines), "it has no clients a core"


def test_only_the_place_between_the_markers_is_written_anew(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws; make bench-capacity installs it")
    document = tmp_path / "capacity.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(ROWS, document, "Measured today.")
    text = document.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nMeasured today. ") and text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text and "<svg" in (tmp_path / report.PLOT).read_text()
    document.write_text("no markers")
    with pytest.raises(ValueError, match="has no place"):
        report.write(ROWS, document, "")
