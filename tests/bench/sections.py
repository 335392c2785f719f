"""The sections, in the order in which the whole benchmark runs them. One more is one more line here."""

from tests.bench import churn_report, flap, incremental, releases
from tests.bench.section import Section

SECTIONS: tuple[Section, ...] = (
    incremental.SECTION,
    flap.SECTION,
    releases.SECTION,
    churn_report.SECTION,
)
