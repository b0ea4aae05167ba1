"""Which transitions of the protocol's table an exploration really went through."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guest.protocol.effects import Effect, Send
from guest.protocol.messages import Message, MessageName
from guest.protocol.table import TABLE, Rule, State


@dataclass
class Coverage:
    """What happened to single pages, by state and event."""

    states: dict[tuple[State, Any], set[State]] = field(default_factory=dict)
    """The states that followed."""
    sends: dict[tuple[State, Any], set[MessageName]] = field(default_factory=dict)
    """The messages that were sent."""

    def recording(self, engine: type[Any], table: Mapping[Any, Rule] = TABLE) -> type[Any]:
        """The engine's class, with every rule of the table noting here what it does. Rules call each other by steps,
        never as rules, so each event is noted once."""
        rules = {name: self._noting(getattr(engine, name)) for name in {rule.name for rule in table.values()}}
        return type(engine.__name__, (engine,), rules)

    def _noting(self, rule: Callable[..., None]) -> Callable[..., None]:
        def noting(engine: Any, page: Any, sender: int, message: Message, effects: list[Effect]) -> None:
            before, count = page.state, len(effects)
            rule(engine, page, sender, message, effects)
            key = before, message.name
            self.states.setdefault(key, set()).add(page.state)
            names = self.sends.setdefault(key, set())
            names.update(MessageName(done.message.name) for done in effects[count:] if isinstance(done, Send))

        return noting
