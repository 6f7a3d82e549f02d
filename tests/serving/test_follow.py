"""Which version is served, with servers that do as they are told and a clock that is turned by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumonia.serving.follow import Follower, Restarts
from pneumonia.serving.model_uri import ModelUri
from pneumonia.serving.scoring_server import NotServed
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.store import Tracker

PORTS = (1, 2)


class Server:
    def __init__(self, world: "World", version: str, port: int) -> None:
        self.world, self.version, self.port, self.name = world, version, port, f"pneumonia version {version}"
        self.runs = self.busy = self.told = self.gone = False
        self.starts, self.began = 0, 0.0

    def start(self) -> None:
        assert not self.gone, "what was stopped has no files"
        if self.port in self.world.taken:
            raise NotServed(f"cannot start: something else listens at port {self.port}")
        self.starts, self.began = self.starts + 1, self.world.now
        self.runs = True

    def restart(self) -> None:
        self.runs = False
        self.start()

    def answers(self) -> bool:
        return self.runs and self.version not in self.world.hanging

    def is_up(self) -> bool:
        if self.runs and self.version in self.world.hanging:
            if self.world.now - self.began > 300:
                raise NotServed("does not answer after 300 s")
            return False
        return self.runs

    def is_right(self) -> bool:
        if self.version in self.world.wrong:
            raise NotServed("does not start: there is no model")
        return self.runs

    def alive(self) -> bool:
        return self.runs

    def is_busy(self) -> bool:
        return self.busy

    def ask_to_stop(self) -> None:
        self.told, self.runs = True, False

    def stop(self) -> None:
        self.runs, self.gone = False, True


class World:
    """An alias, servers, an nginx, a clock; `self.pointed` is the port where requests go."""

    def __init__(self, *, nginx: bool = True) -> None:
        self.now, self.alias, self.away = 1000.0, "1", False
        self.wrong: set[str] = set()
        self.hanging: set[str] = set()  # versions that run and do not answer once they are started again
        self.taken: set[int] = set()  # ports where something else listens
        self.said: list[str] = []
        self.servers: list[Server] = []
        self.backends, self.pointed, self.runs = PORTS, 0, True
        front = self if nginx else None
        self.follower = Follower(
            self.ask, self.bring, front, PORTS, self.said.append, every=10.0, clock=lambda: self.now
        )

    def ask(self) -> str:
        if self.away:
            raise TrackingError("the registry does not answer")
        return self.alias

    def bring(self, version: str, port: int) -> Server:
        assert not any(server.runs and server.port == port for server in self.servers)
        self.servers.append(Server(self, version, port))
        return self.servers[-1]

    def point_to(self, backend: int) -> None:
        assert any(server.runs and server.port == backend for server in self.servers)
        self.pointed = backend

    def alive(self) -> bool:
        return self.runs

    def restart(self) -> None:
        self.runs = True

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.follower.tick()
            self.now += 0.25

    def serving(self) -> str:
        """The version that a request gets to."""
        (server,) = [server for server in self.servers if server.runs and server.port == self.pointed]
        return server.version


@pytest.fixture
def world() -> World:
    world = World()
    world.wait(1)
    assert world.serving() == "1"
    return world


def test_a_version_that_the_alias_comes_to_name_takes_the_place_of_the_one_before(world: World) -> None:
    for version in ("2", "3", "1", "2"):
        world.alias = version
        world.wait(15)
        assert world.serving() == version
        assert [server.version for server in world.servers if server.runs] == [version]


def test_the_old_server_ends_only_when_it_has_answered_everybody(world: World) -> None:
    old = world.servers[0]
    old.busy, world.alias = True, "2"
    world.wait(60)
    assert world.serving() == "2"
    assert old.runs
    old.busy = False
    world.wait(1)
    assert old.told
    old.busy, world.alias = True, "3"
    third = world.servers[-1]
    world.wait(20)
    third.busy, world.alias = True, "4"
    world.wait(400)  # but not for ever
    assert world.serving() == "4"
    assert not third.runs


def test_a_version_that_cannot_be_served_takes_nobody_s_place_and_that_is_said_once(world: World) -> None:
    world.wrong, world.alias = {"2"}, "2"
    world.wait(4000)
    assert world.serving() == "1"
    assert [line for line in world.said if "does not start" in line] == [
        "version 2 does not start: there is no model. pneumonia version 1 goes on being served"
    ]
    tried = [server for server in world.servers if server.version == "2"]
    assert 3 <= len(tried) <= 10  # ever less often
    assert not any(server.runs for server in tried)
    world.alias = "3"  # it goes on asking
    world.wait(15)
    assert world.serving() == "3"
    world.wrong, world.alias = set(), "2"  # promoted again, it is tried at once
    world.wait(15)
    assert world.serving() == "2"


def test_a_version_that_could_not_be_served_for_a_while_is_served_later(world: World) -> None:
    world.wrong, world.alias = {"2"}, "2"
    world.wait(30)
    world.wrong = set()
    world.wait(200)
    assert world.serving() == "2"


def test_an_alias_that_moves_on_meanwhile_is_followed_to_where_it_went(world: World, monkeypatch) -> None:
    monkeypatch.setattr(Server, "is_right", lambda server: server.version != "2")  # takes for ever
    world.alias = "2"
    world.wait(15)
    world.alias = "1"
    world.wait(15)
    assert world.serving() == "1"
    assert [server.version for server in world.servers if server.runs] == ["1"]
    world.alias = "2"
    world.wait(15)
    world.alias = "3"
    world.wait(15)
    assert world.serving() == "3"
    assert [server.version for server in world.servers if server.runs] == ["3"]


def test_without_the_registry_it_goes_on_and_says_so_once(world: World) -> None:
    world.away = True
    world.wait(300)
    assert world.serving() == "1"
    assert world.said.count("the registry does not answer; pneumonia version 1 goes on being served") == 1
    world.servers[0].runs = False  # its server dies meanwhile
    world.wait(5)
    assert world.serving() == "1"
    world.away, world.alias = False, "2"
    world.wait(20)
    assert world.serving() == "2"
    assert world.said.count("the registry names a version again") == 1


def test_a_server_that_dies_is_started_again_ever_more_slowly_where_it_keeps_dying(world: World) -> None:
    server = world.servers[0]
    server.runs = False
    world.wait(1)
    assert world.serving() == "1"
    assert world.said[-2:] == [
        "the server of pneumonia version 1 has died, and is started again",
        "pneumonia version 1 answers again",
    ]
    before = server.starts
    for _ in range(300):
        server.runs = False
        world.wait(1)
    assert 5 <= server.starts - before <= 15
    assert len([line for line in world.said if "has died" in line]) == 1


def test_a_server_that_lives_and_says_nothing_is_started_again(world: World) -> None:
    server = world.servers[0]
    world.hanging = {"1"}
    world.wait(200)  # as long as a large request may take
    world.hanging = set()
    world.wait(20)
    world.hanging = {"1"}
    world.wait(250)
    assert server.starts == 1
    world.wait(60)
    assert server.starts == 2
    world.hanging = set()
    world.wait(20)
    assert world.said[-2:] == [
        "pneumonia version 1 has not answered for 300 s, and is started again",
        "pneumonia version 1 answers again",
    ]


def hangs(world: World) -> None:
    world.hanging = {"1"}
    world.servers[0].runs = False


def hangs_after_a_switch_without_nginx(world: World) -> None:
    world.hanging, world.alias = {"2"}, "2"


@pytest.mark.parametrize(
    ("nginx", "happens", "version"), [(True, hangs, "1"), (False, hangs_after_a_switch_without_nginx, "2")]
)
def test_a_server_that_was_started_again_and_hangs_is_started_once_more(
    nginx: bool, happens: Callable[[World], None], version: str
) -> None:
    world = World(nginx=nginx)
    world.wait(1)
    happens(world)
    world.wait(20)
    server = world.servers[-1]
    before = server.starts
    world.wait(1000)
    assert 2 <= server.starts - before <= 4  # each gets its 300 s
    hung = f"pneumonia version {version} does not answer after 300 s; it is started again"
    assert [line for line in world.said if "does not answer" in line] == [hung]
    world.hanging = set()
    world.wait(400)
    assert server.is_up()
    assert world.said[-1] == f"pneumonia version {version} answers again"
    world.hanging, server.runs = {version}, False  # another time, it is said again
    world.wait(320)
    assert world.said.count(hung) == 2


def test_nginx_is_started_again(world: World) -> None:
    world.runs = False
    world.wait(1)
    assert world.runs
    assert world.said.count("nginx has died, and is started again") == 1


def test_a_dead_server_of_an_old_champion_does_not_keep_the_new_one_away(world: World) -> None:
    world.alias = "2"
    world.servers[0].busy = True
    world.wait(12)
    world.servers[0].runs = False
    world.wait(60)
    assert world.serving() == "2"
    assert [server.version for server in world.servers if server.runs] == ["2"]


@pytest.mark.parametrize("trouble", ["wrong", "away"])
def test_what_cannot_be_served_at_first_is_an_error(trouble: str) -> None:
    world = World()
    world.wrong, world.away = {"1"}, trouble == "away"
    with pytest.raises(TrackingError if world.away else NotServed):
        world.wait(5)
    world.follower.stop()
    assert not any(server.runs for server in world.servers)


def test_without_nginx_a_new_version_is_tried_before_the_old_one_is_stopped() -> None:
    world = World(nginx=False)
    world.wait(1)
    old = world.servers[0]
    world.wrong, world.alias = {"2"}, "2"
    world.wait(15)
    assert (old.runs, old.port) == (True, 1)
    world.alias = "3"
    world.wait(15)
    new = world.servers[-1]
    assert (old.runs, new.runs, new.port, new.version) == (False, True, 1, "3")


def test_without_nginx_a_port_that_is_taken_in_the_gap_is_waited_for() -> None:
    world = World(nginx=False)
    world.wait(1)
    world.alias, world.taken = "2", {1}
    world.wait(60)
    assert world.said.count("pneumonia version 2 cannot start: something else listens at port 1") == 1
    world.taken = set()
    world.wait(60)
    new = world.servers[-1]
    assert (new.runs, new.port, new.version) == (True, 1, "2")
    assert world.said[-1] == "pneumonia version 2 answers again"


class Shelved(Server):
    """One with files, which say of which version they are."""

    def __init__(self, world: World, version: str, port: int, files: Path) -> None:
        super().__init__(world, version, port)
        self.files = files

    def start(self) -> None:
        assert (self.files / "version").read_text() == self.version
        super().start()

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.files)


def test_a_version_that_is_refused_leaves_the_files_of_the_one_that_is_served(tracker: Tracker, tmp_path: Path) -> None:
    uri, copies, world = ModelUri.of("models:/pneumonia@champion"), tmp_path / "copies", World(nginx=False)
    copies.mkdir()
    tracker.client.create_registered_model(uri.name)
    for version in ("1", "2", "3"):
        source = tmp_path / f"model {version}"
        source.mkdir()
        (source / "version").write_text(version)
        assert str(tracker.client.create_model_version(uri.name, source=str(source)).version) == version

    def bring(version: str, port: int) -> Server:
        world.servers.append(Shelved(world, version, port, uri.fetch(tracker, version, copies)))
        return world.servers[-1]

    world.follower.bring = bring
    world.wait(1)
    world.alias = "2"
    world.wait(15)
    second = world.servers[-1]
    world.wrong = {"3"}
    for broken in ("3", "4"):  # 4 cannot be had at all
        world.alias = broken
        world.wait(15)
        second.runs = False  # its server dies meanwhile
        world.wait(15)
        assert (second.runs, second.port, second.version) == (True, 1, "2")
        assert len(list(copies.iterdir())) == 1  # what was refused takes no room
    world.follower.stop()
    assert list(copies.iterdir()) == []


def test_what_is_left_at_the_end_is_stopped(world: World) -> None:
    world.servers[0].busy, world.alias = True, "2"
    world.wait(15)
    assert sum(server.runs for server in world.servers) == 2
    world.follower.stop()
    assert not any(server.runs for server in world.servers)


@pytest.mark.parametrize(("lives", "most"), [(0.5, 8), (500.0, 2)])
def test_restarts(lives: float, most: int) -> None:
    """Of a process that lives for so many seconds, those of 600 s."""
    restarts, now, dies, count = Restarts(), 0.0, 0.0, 0
    due: Callable[[float], bool] = restarts.due
    while now < 600:
        if now >= dies and due(now):
            count, dies = count + 1, now + lives
        now += 0.5
    assert 1 < count <= most * 2
