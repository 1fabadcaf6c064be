"""Several controllers that are killed, stopped and asked to end, at random, and started again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from crash_controller import Controller
from crash_rig import Rig

# How a controller came to its end.
KILLED, ASKED, BY_ITSELF = "SIGKILL", "SIGTERM", "by itself"
HUNG_S = 40.0  # after SIGTERM: twice the grace of the command line


@dataclass(kw_only=True)
class Life:
    """One process: its name as the leases have it, and what was done to it. Times are wall clock, seconds."""

    name: str
    controller: Controller
    started: float
    ended: float | None = None
    end: str = ""
    exit_code: int | None = None
    asked: float | None = None
    stops: list[tuple[float, float]] = field(default_factory=list)


@dataclass(kw_only=True)
class Seat:
    """One place for a controller: who is there now, and when the next thing happens to it."""

    life: Life
    continues_at: float | None = None
    restarts_at: float | None = None

    @property
    def at_work(self) -> bool:
        """Whether something can be done to it now."""
        return self.continues_at is None and self.restarts_at is None and self.life.asked is None


@dataclass(kw_only=True)
class Fleet:
    """Controllers at work. ``torment`` does one thing to one of them; ``turn`` does what is due."""

    rig: Rig
    dice: random.Random
    lease_s: float
    environ: dict[str, str]
    say: Callable[[str], None]
    seats: list[Seat] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Start so many controllers."""
        self.seats = [Seat(life=self._live()) for _ in range(count)]

    def torment(self) -> None:
        """Kill, stop, or ask one that is at work to end."""
        seats = [seat for seat in self.seats if seat.at_work]
        if not seats:
            return
        seat = self.dice.choice(seats)
        what = self.dice.choices((self._kill, self._stop, self._ask), weights=(45, 35, 20))[0]
        what(seat)

    def turn(self) -> None:
        """Continue and start again those whose time has come; see who has ended."""
        now = time.time()
        for seat in self.seats:
            if seat.continues_at is not None and now >= seat.continues_at:
                self._continue(seat)
            if seat.restarts_at is not None and now >= seat.restarts_at:
                seat.life, seat.restarts_at = self._live(), None
            elif seat.restarts_at is None and not seat.life.controller.alive:
                self._ended(seat, ASKED if seat.life.asked else BY_ITSELF)
            elif seat.life.asked is not None and now > seat.life.asked + HUNG_S:
                self._kill(seat)

    def finish(self) -> None:
        """Ask all of them to end, and wait for it; who does not is killed."""
        for seat in self.seats:
            if seat.continues_at is not None:
                self._continue(seat)
            if seat.restarts_at is None and seat.life.asked is None:
                self._ask(seat)
        for seat in self.seats:
            if seat.restarts_at is None:
                in_time = seat.life.controller.wait(HUNG_S)
                self._ended(seat, ASKED if in_time else KILLED)

    def _live(self) -> Life:
        name = f"c{len(self.lives):03d}"
        log = self.rig.root.parent / f"{name}.log"
        controller = Controller(
            ("orchestrate", "--continuous"), self.rig.environ | self.environ, log, name=name
        )
        life = Life(name=name, controller=controller, started=time.time())
        self.lives.append(life)
        return life

    def _kill(self, seat: Seat) -> None:
        seat.life.controller.kill()
        self._ended(seat, KILLED)

    def _stop(self, seat: Seat) -> None:
        # Longer than the lease: it comes back to a world that has gone on without it.
        seconds = self.lease_s * self.dice.uniform(1.2, 2.5)
        seat.life.controller.signal(signal.SIGSTOP)
        now = time.time()
        seat.life.stops.append((now, now + seconds))
        seat.continues_at = now + seconds
        self.say(f"{seat.life.name}: SIGSTOP for {seconds:.1f} s")

    def _continue(self, seat: Seat) -> None:
        seat.life.controller.signal(signal.SIGCONT)
        began, _ = seat.life.stops[-1]
        seat.life.stops[-1] = (began, time.time())
        seat.continues_at = None

    def _ask(self, seat: Seat) -> None:
        seat.life.asked = time.time()
        seat.life.controller.signal(signal.SIGTERM)
        self.say(f"{seat.life.name}: SIGTERM")

    def _ended(self, seat: Seat, end: str) -> None:
        life = seat.life
        life.ended, life.end, life.exit_code = time.time(), end, life.controller.exit_code
        seat.restarts_at = time.time() + self.dice.uniform(0, 2)
        self.say(f"{life.name}: ended ({end}, exit code {life.exit_code})")
