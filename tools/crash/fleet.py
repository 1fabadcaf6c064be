"""Several controllers that are killed, stopped and asked to end, at random, and started again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.crash.controller import Controller
from tools.crash.rig import Rig

# How a controller came to its end.
KILLED, ASKED, BY_ITSELF = "SIGKILL", "SIGTERM", "by itself"
HUNG_S = 40.0  # after SIGTERM: twice the grace of the command line


@dataclass(kw_only=True)
class Lifetime:
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
class Slot:
    """One place for a controller: who is there now, and when the next thing happens to it."""

    lifetime: Lifetime
    continues_at: float | None = None
    restarts_at: float | None = None

    @property
    def at_work(self) -> bool:
        """Whether something can be done to it now."""
        return self.continues_at is None and self.restarts_at is None and self.lifetime.asked is None


@dataclass(kw_only=True)
class Fleet:
    """Controllers at work. ``disturb`` does one thing to one of them; ``step`` does what is due."""

    rig: Rig
    rng: random.Random
    lease_s: float
    environ: dict[str, str]
    say: Callable[[str], None]
    slots: list[Slot] = field(default_factory=list)
    lifetimes: list[Lifetime] = field(default_factory=list)

    def start(self, count: int) -> None:
        """Start so many controllers."""
        self.slots = [Slot(lifetime=self._live()) for _ in range(count)]

    def disturb(self) -> None:
        """Kill, stop, or ask one that is at work to end."""
        slots = [slot for slot in self.slots if slot.at_work]
        if not slots:
            return
        slot = self.rng.choice(slots)
        what = self.rng.choices((self._kill, self._stop, self._ask), weights=(45, 35, 20))[0]
        what(slot)

    def step(self) -> None:
        """Continue and start again those whose time has come; see who has ended."""
        now = time.time()
        for slot in self.slots:
            if slot.continues_at is not None and now >= slot.continues_at:
                self._continue(slot)
            if slot.restarts_at is not None and now >= slot.restarts_at:
                slot.lifetime, slot.restarts_at = self._live(), None
            elif slot.restarts_at is None and not slot.lifetime.controller.alive:
                self._ended(slot, ASKED if slot.lifetime.asked else BY_ITSELF)
            elif slot.lifetime.asked is not None and now > slot.lifetime.asked + HUNG_S:
                self._kill(slot)

    def finish(self) -> None:
        """Ask all of them to end, and wait for it; who does not is killed."""
        for slot in self.slots:
            if slot.continues_at is not None:
                self._continue(slot)
            if slot.restarts_at is None and slot.lifetime.asked is None:
                self._ask(slot)
        for slot in self.slots:
            if slot.restarts_at is None:
                in_time = slot.lifetime.controller.wait(HUNG_S)
                self._ended(slot, ASKED if in_time else KILLED)

    def _live(self) -> Lifetime:
        name = f"c{len(self.lifetimes):03d}"
        log = self.rig.root.parent / f"{name}.log"
        controller = Controller(
            ("orchestrate", "--continuous"), self.rig.environ | self.environ, log, name=name
        )
        lifetime = Lifetime(name=name, controller=controller, started=time.time())
        self.lifetimes.append(lifetime)
        return lifetime

    def _kill(self, slot: Slot) -> None:
        slot.lifetime.controller.kill()
        self._ended(slot, KILLED)

    def _stop(self, slot: Slot) -> None:
        # Longer than the lease: it comes back to a world that has gone on without it.
        seconds = self.lease_s * self.rng.uniform(1.2, 2.5)
        slot.lifetime.controller.signal(signal.SIGSTOP)
        now = time.time()
        slot.lifetime.stops.append((now, now + seconds))
        slot.continues_at = now + seconds
        self.say(f"{slot.lifetime.name}: SIGSTOP for {seconds:.1f} s")

    def _continue(self, slot: Slot) -> None:
        slot.lifetime.controller.signal(signal.SIGCONT)
        began, _ = slot.lifetime.stops[-1]
        slot.lifetime.stops[-1] = (began, time.time())
        slot.continues_at = None

    def _ask(self, slot: Slot) -> None:
        slot.lifetime.asked = time.time()
        slot.lifetime.controller.signal(signal.SIGTERM)
        self.say(f"{slot.lifetime.name}: SIGTERM")

    def _ended(self, slot: Slot, end: str) -> None:
        lifetime = slot.lifetime
        lifetime.ended, lifetime.end, lifetime.exit_code = time.time(), end, lifetime.controller.exit_code
        slot.restarts_at = time.time() + self.rng.uniform(0, 2)
        self.say(f"{lifetime.name}: ended ({end}, exit code {lifetime.exit_code})")
