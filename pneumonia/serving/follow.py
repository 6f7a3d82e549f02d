"""Which version is served: the one that an alias names, as soon as it is known to answer.

A version that the alias has come to name is started beside the one that is served, tried, and takes its place; the
other one ends when it has answered what it was asked. One that does not start or does not answer rightly takes nobody's
place. A server that dies or hangs is started again, as often as it does. What is said is said once.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pneumonia.serving.scoring_server import NotServed
from pneumonia.tracking.connection import TrackingError

DRAIN_SECONDS = 300.0  # as long as nginx waits for an answer
PING_SECONDS = 10.0  # between two questions to the present server whether it answers
HANG_PINGS = 30  # in vain, in a row, until it counts as hanging: as long as nginx waits for a large request
QUIET_SECONDS = 1.0  # from the switch until the old server may be stopped: a request may be on its way to it
STOP_SECONDS = 15.0  # for the old server to end after it was told to
PAUSES = (1.0, 60.0)  # shortest and longest before a server that died is started again; doubled each time
LONG_LIFE = 120.0  # a server that lived so long before it died is started again at once
REFUSED_PAUSES = (60.0, 3600.0)  # the same before a version that could not be served is tried again


class Server(Protocol):
    """A server of one version (see `scoring_server.ScoringServer`)."""

    name: str
    version: str
    port: int

    def start(self) -> None: ...
    def answers(self) -> bool: ...
    def is_up(self) -> bool: ...
    def is_right(self) -> bool: ...
    def alive(self) -> bool: ...
    def is_busy(self) -> bool: ...
    def restart(self) -> None: ...
    def ask_to_stop(self) -> None: ...
    def stop(self) -> None: ...


class Front(Protocol):
    """What stands before the servers (see `nginx_process.Nginx`): `backends` are their two ports."""

    backends: tuple[int, int]

    def point_to(self, backend: int) -> None: ...
    def alive(self) -> bool: ...
    def restart(self) -> None: ...


class Restarts:
    """When a process that keeps dying is started again: at once, then after pauses that double, until it has lived for
    `LONG_LIFE`.
    """

    def __init__(self) -> None:
        self.last, self.pause = -math.inf, 0.0

    def due(self, now: float) -> bool:
        """Whether a dead process is to be started now; that it is is noted."""
        if now - self.last > LONG_LIFE:
            self.pause = 0.0
        if now - self.last < self.pause:
            return False
        self.last, self.pause = now, min(PAUSES[1], max(PAUSES[0], 2 * self.pause))
        return True

    @property
    def is_first(self) -> bool:
        """Whether the last start was the first of a row."""
        return self.pause == PAUSES[0]


class Refused:
    """A version that could not be served, and when it is tried again."""

    def __init__(self) -> None:
        self.until, self.pause = 0.0, REFUSED_PAUSES[0]

    def again(self, now: float) -> None:
        self.until, self.pause = now + self.pause, min(REFUSED_PAUSES[1], 2 * self.pause)


class Leaving(NamedTuple):
    """A server whose place was taken, since when, and since when it has been told to end."""

    server: Server
    since: float
    told: float | None = None


class Follower:
    """Serves the version that an alias names.

    Args:
        ask: the version that the alias names. Raises TrackingError: there is none, or the registry does not answer.
        bring: a server, not started, of a version at a port. Raises NotServed.
        front: None where clients are answered by the server itself, at the first of `ports`: then a version is tried at
            the second one and started again at the first when that is free, and nobody is answered in between.
        ports: of the servers.
        say: gets each sentence.
        every: seconds between two questions to the registry.
        clock: seconds.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        bring: Callable[[str, int], Server],
        front: Front | None,
        ports: tuple[int, int],
        say: Callable[[str], None],
        *,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ask, self.bring, self.front, self.ports = ask, bring, front, ports
        self.say, self.every, self.clock = say, every, clock
        self.current: Server | None = None
        self.incoming: Server | None = None
        self.leaving: Leaving | None = None
        self.wanted: str | None = None
        self._asked, self._seen = -math.inf, 0.0
        self._refused: dict[str, Refused] = {}
        self._restarts, self._front_restarts = Restarts(), Restarts()
        self._pinged, self._unanswered = -math.inf, 0  # when the present server was asked last, and in vain how often
        self._down = False  # the present server was started again, and does not answer yet
        self._fault: str | None = None  # what was said of that
        self._trouble = False  # the registry could not be asked the last time

    def tick(self) -> None:
        """Does what is to be done now; to be called a few times a second.

        Raises:
            NotServed: the first version cannot be served.
            TrackingError: before that, the registry does not answer.
        """
        self._keep_alive()
        self._ask()
        self._bring_in()
        self._let_go()

    def stop(self) -> None:
        """Ends all servers."""
        left = None if self.leaving is None else self.leaving.server
        servers = [server for server in (left, self.incoming, self.current) if server is not None]
        for server in servers:
            server.ask_to_stop()
        for server in servers:
            server.stop()

    def _ask(self) -> None:
        if self.clock() - self._asked < self.every:
            return
        try:
            version = self.ask()
        except TrackingError as error:
            if self.current is None:
                raise
            if not self._trouble:
                self.say(f"{error}; {self.current.name} goes on being served")
            self._trouble = True
            return
        finally:
            self._asked = self.clock()
        if self._trouble:
            self.say("the registry names a version again")
        self._trouble = False
        if version != self.wanted:
            self.wanted, self._seen = version, self.clock()
            self._refused.clear()

    def _bring_in(self) -> None:
        """Starts the version that is wanted, and switches to it when it answers rightly."""
        served = None if self.current is None else self.current.version
        if self.incoming is not None and self.incoming.version != self.wanted:  # the alias has moved on, or back
            self.incoming.stop()
            self.incoming = None
        if self.wanted in (None, served) or self.leaving is not None:
            return
        assert self.wanted is not None
        try:
            if self.incoming is None:
                if self.wanted in self._refused and self.clock() < self._refused[self.wanted].until:
                    return
                self.incoming = self.bring(self.wanted, self._free_port())
                self.incoming.start()
                if self.wanted not in self._refused:
                    self.say(f"{self.incoming.name} is started")
            elif self.incoming.is_right():
                self._switch(self.incoming)
        except NotServed as error:
            self._refuse(self.wanted, error)

    def _free_port(self) -> int:
        if self.current is None:
            return self.ports[0]
        return self.ports[1] if self.current.port == self.ports[0] else self.ports[0]

    def _switch(self, new: Server) -> None:
        old, self._restarts, self._down, self._fault = self.current, Restarts(), False, None
        self._unanswered = 0
        if old is None:
            self.say(f"{new.name} answers now")
        elif self.front is not None:
            self.leaving = Leaving(old, self.clock())
        else:
            self.say(f"{new.name} answers rightly, and takes the place of {old.name}: a gap of some seconds")
            new.ask_to_stop()
            old.stop()
            new.port = self.ports[0]
            self._restart(new)
        self.current, self.incoming = new, None
        if self.front is not None:
            self.front.point_to(new.port)
            if old is not None:
                took = self.clock() - self._seen
                self.say(f"{new.name} answers now, {took:.1f} s after it was seen to be champion")

    def _refuse(self, version: str, error: NotServed) -> None:
        """Gives a version up for a while, and says why the first time."""
        if self.incoming is not None:
            self.incoming.stop()
            self.incoming = None
        if self.current is None:
            raise NotServed(f"version {version} {error}") from error
        if version not in self._refused:
            self._refused[version] = Refused()
            self.say(f"version {version} {error}. {self.current.name} goes on being served")
        self._refused[version].again(self.clock())

    def _let_go(self) -> None:
        """Ends the server whose place was taken, when it has answered everybody."""
        if self.leaving is None:
            return
        server, since, told = self.leaving
        now = self.clock()
        if told is None:
            if now - since > DRAIN_SECONDS or (now - since > QUIET_SECONDS and not server.is_busy()):
                server.ask_to_stop()
                self.leaving = Leaving(server, since, told=now)
        elif not server.alive() or now - told > STOP_SECONDS:
            server.stop()
            self.leaving = None

    def _keep_alive(self) -> None:
        """Starts again what has died."""
        if self.current is None:
            return
        now = self.clock()
        if self.front is not None and not self.front.alive() and self._front_restarts.due(now):
            if self._front_restarts.is_first:
                self.say("nginx has died, and is started again")
            self.front.restart()
        if not self.current.alive():
            if self._restarts.due(now):
                if self._restarts.is_first:
                    self.say(f"the server of {self.current.name} has died, and is started again")
                self._restart(self.current)
        elif self._down:
            self._look_again(self.current, now)
        elif now - self._pinged >= PING_SECONDS:
            self._ping(self.current, now)

    def _ping(self, server: Server, now: float) -> None:
        """Starts a server again that lives and has long said nothing.

        Pings are counted, not seconds: this process may have been asleep in between.
        """
        self._unanswered = 0 if server.answers() else self._unanswered + 1
        self._pinged = now
        if self._unanswered >= HANG_PINGS and self._restarts.due(now):
            self.say(f"{server.name} has not answered for {HANG_PINGS * PING_SECONDS:.0f} s, and is started again")
            self._restart(server)

    def _look_again(self, server: Server, now: float) -> None:
        """Whether a server that was started again answers; one that hangs is started once more."""
        try:
            if server.is_up():
                self._down, self._fault = False, None
                self.say(f"{server.name} answers again")
        except NotServed as error:
            self._say_fault(f"{server.name} {error}; it is started again")
            if self._restarts.due(now):
                self._restart(server)

    def _restart(self, server: Server) -> None:
        self._down, self._unanswered = True, 0
        try:
            server.restart()
        except NotServed as error:
            self._say_fault(f"{server.name} {error}")

    def _say_fault(self, fault: str) -> None:
        if fault != self._fault:
            self.say(fault)
        self._fault = fault
