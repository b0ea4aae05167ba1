"""Starts of the pair: booting, and going on from saved states until the agents answer."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.bench.figures import Figure, Machine, Quantity, Unit
from orchestrator.bench.guests import DEPLOY_S, NODES, SHAPE
from orchestrator.experiments.experiment import Accelerator
from orchestrator.progress import Progress
from orchestrator.results.directories import RunDirectory
from orchestrator.signals import signals_wait
from orchestrator.stages.agents import Agents
from orchestrator.stages.deployment import start_agent
from orchestrator.stages.machines import bring_up
from testbed import Deadline, GuestError, Testbed
from testbed.machine import Node
from testbed.warm import Mode


@dataclass
class Pair:
    """The pair of one bench run, which is brought up again and again; `machines` is what it was the last time."""

    accelerator: Accelerator | None
    directory: RunDirectory
    progress: Progress
    machines: tuple[Machine, ...] = ()

    def up(self, mode: Mode) -> Testbed:
        """Both guests; consoles of those that do not come up go to the results."""
        name = f"bench-{self.directory.run_id[-4:]}"
        evidence = self.directory.path / "evidence"
        testbed = bring_up(name, SHAPE, self.accelerator, self.progress.detail, evidence, mode=mode)
        self.machines = tuple(
            Machine(node.name, node.arch, node.accelerator.value, node.accelerator_reason)
            for node in testbed.nodes.values()
        )
        return testbed

    def down(self, testbed: Testbed) -> None:
        """Whatever signal comes meanwhile, it goes."""
        with signals_wait(self.progress.say_soon), self.progress.step("removing the guests"):
            testbed.down(self.progress.detail)


def warm(pair: Pair, repeat: int) -> list[Figure]:
    """Until SSH answers, by node and for both; and until the agents of both have answered, everything included."""
    with pair.progress.step("saving the states of both guests"):
        pair.down(pair.up(Mode.WARM))
    ssh_s: dict[tuple[str, ...], list[float]] = {(node,): [] for node in NODES} | {NODES: []}
    agents_s: list[float] = []
    for index in range(repeat):
        with pair.progress.step(f"warm start of {' and '.join(NODES)} ({index + 1} of {repeat})"):
            begin = time.monotonic()
            Node.prepare_shell()
            testbed = pair.up(Mode.AUTO)
            try:
                cold = [node for node in testbed.nodes.values() if not node.warm]
                if cold:
                    raise GuestError(f"node {cold[0].name} did not start from its state: {cold[0].warm_reason}")
                _greet(testbed)
                agents_s.append(time.monotonic() - begin)
                for place, samples in ssh_s.items():
                    samples.append(max(testbed.nodes[node].boot_s or 0.0 for node in place))
            finally:
                pair.down(testbed)
    figures = [Figure.of(Quantity.WARM_SSH, place, Unit.SECONDS, samples) for place, samples in ssh_s.items()]
    return [*figures, Figure.of(Quantity.WARM, NODES, Unit.SECONDS, agents_s)]


def _greet(testbed: Testbed) -> None:
    nodes = list(testbed.nodes.values())
    deadline = max((Deadline.scaled(DEPLOY_S, node.accelerator) for node in nodes), key=lambda each: each.seconds)
    with ThreadPoolExecutor(len(nodes), thread_name_prefix="deploy") as pool:
        started = {node.name: pool.submit(start_agent, node, b"", deadline) for node in nodes}
    agents = Agents({name: each.result() for name, each in started.items()})
    try:
        agents.ask({name: {"op": "hello"} for name in started}, deadline)
    finally:
        agents.close()
