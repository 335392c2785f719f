"""What was asked when, for everything that stands between a client and an agent."""

import time

PATH_CHECK = "/grayctl.no-such-service"


class Traffic:
    """`requests` holds (monotonic time, path and query), in order."""

    def __init__(self) -> None:
        self.requests: list[tuple[float, str]] = []

    def since(self, mark: float) -> list[str]:
        """What was asked since `mark`."""
        return [path for at, path in self.requests if at >= mark]

    def timeline(self, mark: float) -> str:
        """What was asked when, for the message of a test that failed."""
        return "\n".join(f"{at - mark:8.3f} {path}" for at, path in self.requests if at >= mark)

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing but the path check was asked in the last `seconds`."""
        return not [path for path in self.since(time.monotonic() - seconds) if PATH_CHECK not in path]

    def busiest_second(self, mark: float) -> int:
        """The most requests within any one second since `mark`."""
        times = [at for at, _ in self.requests if at >= mark]
        return max((sum(at <= other < at + 1.0 for other in times) for at in times), default=0)
