"""Origins: the root and parent of an execution, its people, session and trace, stored with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polos_redis.errors import UnreadableValueError
from polos_redis.values import codec


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of an execution, as its code sees it."""

    root_workflow_id: str
    parent_execution_id: str | None = None
    session_id: str | None = None
    user_id: str | None = None
    initial_state: bytes | None = None  # codec: reading an origin must not need the state's type
    started_by: str | None = None
    traceparent: str | None = None  # of the span that started it, else of its first activation
    tracestate: str | None = None
    last_span: str | None = None  # traceparent of its last activation
    forked_from: str | None = None
    forked_by: tuple[str, ...] = ()
    results_set: tuple[str, ...] = ()  # step keys
    continued_in: int | None = None  # the run that its journal begins with, if it has continued as new

    @property
    def starters(self) -> set[str]:
        """The people who started it: the user it is for, the person who acted for that user, and whoever
        forked it, or an execution that it goes back to."""
        return {one for one in (self.user_id, self.started_by, *self.forked_by) if one}

    @property
    def since_run(self) -> int:
        """The run that the journal begins with."""
        return self.continued_in or 1

    def pack(self) -> bytes:
        """Returns the stored form."""
        known = {name: value for name, value in self._fields().items() if value not in (None, ())}
        return codec.encode(known, limit=codec.UNLIMITED)  # the initial state has been checked

    @classmethod
    def unpack(cls, workflow_id: str, packed: bytes | None) -> Origin:
        """Read the stored form; None is the origin of a root execution without people or session. Fields of a
        later release are ignored."""
        if packed is None:
            return cls(workflow_id)
        found = codec.decode(packed)
        if not isinstance(found, dict):
            raise UnreadableValueError("damaged: the origin of the execution can't be read")
        known = {name: value for name, value in found.items() if name in cls.__slots__}
        return cls(**{"root_workflow_id": workflow_id, **known})

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
