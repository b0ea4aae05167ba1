"""Random kernels, threads, pages, delays and faults, drawn by seed: many small systems that nobody thought out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from guest.protocol.engine import Engine
from guest.protocol.origin import OriginEngine
from guest.protocol.registry import PROTOCOLS
from guest.workloads.shared_array import SharedArray
from orchestrator.simulator.conditions import Conditions
from orchestrator.simulator.memory import Violation
from orchestrator.simulator.setting import Setting
from orchestrator.simulator.world import World

KERNELS_MAX = 5
ROLES = (("writer",), ("reader",), ("idle",), ("writer", "reader"), ("writer", "writer"))
DELAYS_US = ((0, 50), (0, 1000), (40, 60), (50, 5000))
KILL_MAX_US = 4000
"""Late enough that a small workload is often over, early enough that it mostly is not."""


@dataclass(frozen=True)
class Mixture:
    """Which faults there are; how many of each is drawn by seed."""

    reorder: bool = False
    duplicates: bool = False
    lost_doorbells: bool = False
    slow: bool = False
    deaths: bool = False

    @property
    def name(self) -> str:
        """Its faults, joined by `+`; `delays` where there are only those."""
        return "+".join(name for name, value in vars(self).items() if value) or "delays"

    def conditions(self, names: tuple[str, ...], mortal: tuple[str, ...], chance: Random) -> Conditions:
        """Draw them for these kernels, of which the `mortal` may die, but never all of them."""
        slow = tuple((name, chance.choice((3.0, 10.0, 100.0))) for name in names if self.slow and chance.random() < 0.3)
        dying = chance.sample(mortal, chance.randrange(1, min(len(mortal) + 1, len(names)))) if self.deaths else []
        return Conditions(
            delay_us=chance.choice(DELAYS_US),
            reorder=self.reorder,
            duplicate=chance.choice((0.05, 0.3, 1.0)) if self.duplicates else 0.0,
            lose_doorbell=chance.choice((0.05, 0.3, 1.0)) if self.lost_doorbells else 0.0,
            slow=slow,
            kills=tuple((name, chance.randrange(KILL_MAX_US)) for name in dying),
        )


MIXTURES = {
    mixture.name: mixture
    for mixture in (
        Mixture(),
        Mixture(lost_doorbells=True, slow=True),
        Mixture(reorder=True),
        Mixture(duplicates=True),
        Mixture(reorder=True, duplicates=True),
        Mixture(reorder=True, duplicates=True, lost_doorbells=True, slow=True),
        Mixture(deaths=True),
        Mixture(reorder=True, deaths=True),
        Mixture(duplicates=True, deaths=True),
        Mixture(reorder=True, duplicates=True, lost_doorbells=True, slow=True, deaths=True),
    )
}
"""By name."""
ONCE = tuple(name for name, mixture in MIXTURES.items() if not mixture.duplicates)
"""Those in which every message arrives once, as on the rings: the origin protocol relies on it."""


@dataclass
class Fuzzed:
    """What came of a protocol under a mixture, up to the first failure."""

    protocol: str
    mixture: str
    simulations: int = 0
    events: int = 0
    messages: int = 0
    deaths: int = 0
    lost: int = 0
    """Accesses that found their page's only valid copy gone."""
    failed_seed: int | None = None
    failure: Violation | None = None
    last: list[str] = field(default_factory=list)


def mixtures_of(protocol: str) -> tuple[str, ...]:
    """Names of the mixtures that a protocol is to stand."""
    return ONCE if protocol == "origin" else tuple(MIXTURES)


def fuzz(protocol: str, mixture: str, seeds: range) -> Iterator[Fuzzed]:
    """One simulation a seed, up to the first that fails; the same sum each time, further on."""
    done = Fuzzed(protocol, mixture)
    for seed in seeds:
        names, world = drawn(PROTOCOLS[protocol], mixture, seed)
        world.run()
        done.simulations += 1
        done.events += world.handled
        done.messages += sum(Counter(world.sent()).values())
        done.deaths += len(world.died)
        done.lost += len(world.lost)
        if world.failure is not None:
            done.failed_seed, done.failure = seed, world.failure
            done.last = [event.line(names) for event in world.last]
        yield done
        if done.failure is not None:
            return


def drawn(engine: type[Engine], mixture: str, seed: int) -> tuple[tuple[str, ...], World]:
    """The system that this seed stands for, not yet run, and the names of its kernels."""
    chance = Random(f"{mixture}/{seed}")
    kernels = chance.randrange(2, KERNELS_MAX + 1)
    names = tuple(f"k{number}" for number in range(kernels))
    pages, iterations = chance.randrange(1, 4), chance.randrange(1, 5)
    setting = Setting(
        names=names,
        roles=tuple(chance.choice(ROLES) for _ in names),
        array=SharedArray(pages * 4096, 64, iterations),
        engine=engine,
    )
    mortal = names[1:] if issubclass(engine, OriginEngine) else names  # without its directory, all pages are lost
    return names, World(setting, MIXTURES[mixture].conditions(names, mortal, chance), f"{mixture}/{seed}")
