"""The terms of a suspension: what an answer must look like, and who may give it.

They are stored with the suspension, so whoever takes an answer (client, command, topic, REST, page) checks it
before the workflow wakes, and needs none of the workflow's code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import msgpack

from polos_redis.decisions.people import GROUP
from polos_redis.errors import ConfigurationError, InvalidAnswerError, NotApproverError
from polos_redis.values import schema_errors, schemas
from polos_redis.values.text import canonical

MOST_REQUIRED = 100


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """What a suspension asks of its answers.

    `schema` is a JSON schema and `type_name` the type it was made of; `approvers` are names or `group:NAME`,
    none means anybody. So many approvals (`data["approved"] is True`) or rejections by distinct people
    decide.
    """

    schema: dict[str, Any] | None = None
    type_name: str = ""
    approvers: tuple[str, ...] = ()
    required: int = 1
    rejections: int = 1
    allow_self: bool = True

    @classmethod
    def of(
        cls,
        what: str,
        annotation: Any,
        approvers: Iterable[str] | None,
        required: int,
        rejections: int,
        allow_self: bool,
        starters: Set[str],
    ) -> AnswerPolicy:
        """As a workflow declares them; `starters` have started the execution. Raises `ConfigurationError`."""
        schema, type_name = schemas.describe(what, annotation) if annotation is not None else (None, "")
        wanted: tuple[str, ...] = ()
        if approvers is not None:
            wanted = (
                () if isinstance(approvers, str) or not isinstance(approvers, Iterable) else tuple(approvers)
            )
            if not wanted or not all(isinstance(one, str) and one.removeprefix(GROUP) for one in wanted):
                raise ConfigurationError(
                    f"{what}: approvers is a list of names and group:NAME, one at least, not {approvers!r}; "
                    "leave it out to let anybody decide"
                )
        for name, number in (("required", required), ("rejections", rejections)):
            if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_REQUIRED:
                raise ConfigurationError(
                    f"{what}: {name} is a whole number from 1 to {MOST_REQUIRED}, not {number!r}"
                )
        if not allow_self and not starters:
            raise ConfigurationError(
                f"{what}: allow_self=False needs to know who has started the execution: give user_id= "
                "at invoke"
            )
        people = {one for one in wanted if not one.startswith(GROUP)}
        several = {canonical(one) for one in people}
        may_decide = len(several if allow_self else several - {canonical(one) for one in starters})
        needed = required + rejections - 1  # so many people decide it in any case
        if wanted and len(people) == len(set(wanted)) and may_decide < needed:
            raise ConfigurationError(
                f"{what}: with required={required} and rejections={rejections} it may take {needed} people, "
                f"but approvers names {may_decide} who may decide: it could stay undecided"
            )
        policy = cls(schema, type_name, wanted, required, rejections, bool(allow_self))
        if policy.counts and schema is not None and "approved" not in schemas.properties(schema):
            raise ConfigurationError(
                f"{what}: with required= or rejections= an answer says whether it approves: "
                "the schema needs a field `approved: bool`"
            )
        return policy

    @property
    def counts(self) -> bool:
        """Whether it takes more than one answer."""
        return self.required > 1 or self.rejections > 1

    def pack(self) -> bytes:
        """As the store keeps them, and answer.lua reads them; empty when anything from anybody will do."""
        if self == ANYTHING:
            return b""
        packed: bytes = msgpack.packb(
            {
                "schema": "" if self.schema is None else json.dumps(self.schema, separators=(",", ":")),
                "type": self.type_name,
                "approvers": self.approvers,
                "required": self.required,
                "rejections": self.rejections,
                "self": self.allow_self,
            },
            use_bin_type=False,
            unicode_errors="surrogatepass",
        )
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> AnswerPolicy:
        """As the store has them; fields of newer releases are left out."""
        if not packed:
            return ANYTHING
        found = msgpack.unpackb(packed, unicode_errors="surrogatepass")
        return cls(
            json.loads(found["schema"]) if found["schema"] else None,
            found["type"],
            tuple(found["approvers"]),
            found["required"],
            found["rejections"],
            found["self"],
        )

    def check_answer(self, execution_id: str, step_key: str, answer: Any) -> None:
        """Refuse an answer (plain JSON) that does not fit: `InvalidAnswerError`."""
        errors = [] if self.schema is None else schema_errors.errors_in(self.schema, self.type_name, answer)
        if not errors and self.counts and verdict(answer) is None:
            errors = [{"field": "approved", "message": "true or false is needed: does this answer approve?"}]
        if errors:
            raise InvalidAnswerError(execution_id, step_key, errors)

    def check_person(
        self,
        execution_id: str,
        step_key: str,
        who: str | None,
        groups: Sequence[str],
        starters: Set[str],
    ) -> None:
        """Refuse one who may not decide: `NotApproverError`."""
        named = bool(who)
        if not named and (self.approvers or self.counts or not self.allow_self):
            raise NotApproverError(execution_id, step_key, who, "it has to be known who answers")
        may = {who, *(GROUP + group for group in groups)}
        if who is not None and who.startswith(GROUP):
            may.discard(who)
        if self.approvers and may.isdisjoint(self.approvers):
            raise NotApproverError(execution_id, step_key, who, f"it is for {', '.join(self.approvers)}")
        if not self.allow_self and canonical(who or "") in {canonical(one) for one in starters}:
            raise NotApproverError(execution_id, step_key, who, "who has started it may not decide it")


ANYTHING = AnswerPolicy()


def verdict(answer: Any) -> bool | None:
    """Whether an answer approves, which nothing but `approved: true` does; None when it doesn't say."""
    approved = answer.get("approved") if isinstance(answer, dict) else None
    return approved if isinstance(approved, bool) else None
