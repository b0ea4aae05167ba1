"""What must hold in every state, by the numbers of docs/protocol.md.

(1) a writable page is readable nowhere else; (2) every readable copy holds the value stored last; (3) a page in N is
nowhere else, messages included; (4) some living kernel holds the latest value of every page ever touched, or it is on
its way to one, and no page that was written becomes zeros (`system.py` sees to that); (5) no thread waits in a state
without messages. That every state can come to rest by deliveries alone only a whole search can tell.
"""

from guest.protocol.messages import MessageName
from orchestrator.checker.system import DEAD, System, World


def broken(system: System, world: World) -> str | None:
    """What of invariants 1 to 4 does not hold."""
    machines = system.machines
    summaries = [machines[kernel].summaries[local] for kernel, local in enumerate(world.locals) if local != DEAD]
    alone = current = 0
    for index, one in enumerate(summaries):
        if one.writable or one.alone:
            for other in summaries[:index] + summaries[index + 1 :]:
                if one.writable & other.readable:
                    return "invariant 1: a page is writable in one kernel and readable in another"
                if one.alone & other.present:
                    return "invariant 3: a page is in N though it is somewhere else"
        if one.stale:
            return "invariant 2: a kernel can read a stale value"
        alone |= one.alone
        current |= one.readable
    if alone and _carried(system, world, alone):
        return "invariant 3: a page is in N though a copy is on its way"
    if not world.deaths and len({one.epoch for one in summaries}) == 1:
        for page, kernels in enumerate(world.touched):
            if kernels and not current >> page & 1 and not _travels(system, world, page):
                return f"invariant 4: no kernel has page {page} any more"
    return None


def stuck(system: System, world: World) -> str | None:
    """What of invariant 5 does not hold in a state where nothing is in flight."""
    for kernel, local in enumerate(world.locals):
        if local != DEAD:
            summary = system.machines[kernel].summaries[local]
            if summary.orphaned:
                continue  # it ends, with a named error
            if summary.asleep or summary.pending:
                what = "a thread waits" if summary.asleep else "a page is in flight"
                return f"invariant 5: nothing is in flight, but {what} in kernel {kernel}"
    return None


def _carried(system: System, world: World, pages: int) -> bool:
    for sender, _, number in world.net:
        message = system.parcels.values[number].message
        if message.name == MessageName.PAGE_DATA and pages >> message.page & 1 and world.locals[sender] != DEAD:
            return True
    return False


def _travels(system: System, world: World, page: int) -> bool:
    """Whether the page's latest value is on its way: whoever gives the only copy away need not keep it."""
    values = system.parcels.values
    return any(values[number].fresh and values[number].message.page == page for _, _, number in world.net)
