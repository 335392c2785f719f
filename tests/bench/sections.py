"""The sections, in the order in which the whole benchmark runs them. One more is one more line here."""

from tests.bench import churn_report, incremental, releases, storms
from tests.bench.section import Section

SECTIONS: tuple[Section, ...] = (
    incremental.SECTION,
    storms.SECTION,
    releases.SECTION,
    churn_report.SECTION,
)
