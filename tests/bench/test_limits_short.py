"""The limits' short form: it converges within its budget, and nobody else is harmed. No test judges time."""

from tests.bench import limits
from tests.bench.machines import Grayctl


def test_250_services_leave_the_agent_to_others_also_across_a_crash() -> None:
    row = limits.measure(Grayctl, 250, 3, settles=3)
    assert limits.failed([row]) == []
    assert len(row.changes) == 3
    assert min(row.others.served, row.others_again.served) > 0
