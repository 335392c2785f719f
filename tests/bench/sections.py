"""The sections, in the order in which the whole benchmark runs them. One more is one more line here."""

from tests.bench import changes, churn_report, footprint, incremental, limits, releases, start, storms, watcher
from tests.bench.section import Section

SECTIONS: tuple[Section, ...] = (
    changes.SECTION,
    start.SECTION,
    footprint.SECTION,
    incremental.SECTION,
    watcher.SECTION,
    limits.SECTION,
    storms.SECTION,
    releases.SECTION,
    churn_report.SECTION,
)
