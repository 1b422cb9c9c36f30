"""Answer policies: which answers a suspension accepts, and from whom.

The policy is stored with the suspension. So every way in (client, command, topic, REST, page) checks an
answer before the workflow wakes, without the workflow's code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import msgpack

from polos_redis.decisions.people import GROUP
from polos_redis.errors import ConfigurationError, InvalidAnswerError, NotApproverError
from polos_redis.values import bounds, schema_errors, schemas
from polos_redis.values.text import canonical

MOST_REQUIRED = 100


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """The answers a suspension accepts.

    `schema` is a JSON schema and `type_name` the type it was made of. `approvers` are names or `group:NAME`;
    empty means anybody. `required` approvals (`data["approved"] is True`) by distinct people decide, or
    `rejections` rejections. `allow_self` lets those who started the execution decide.
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
        """Returns the policy a workflow declares; `starters` are the people who started the execution.

        Raises `ConfigurationError`.
        """
        schema, type_name = schemas.describe(what, annotation) if annotation is not None else (None, "")
        names = () if approvers is None else _approver_names(what, approvers)
        for name, number in (("required", required), ("rejections", rejections)):
            if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_REQUIRED:
                raise ConfigurationError(
                    f"{what}: {name} must be a whole number from 1 to {MOST_REQUIRED}, not {number!r}"
                )
        if not allow_self and not starters:
            raise ConfigurationError(
                f"{what}: allow_self=False needs to know who started the execution: pass user_id= to invoke"
            )
        policy = cls(schema, type_name, names, required, rejections, bool(allow_self))
        if policy.counts and schema is not None and "approved" not in schemas.properties(schema):
            raise ConfigurationError(
                f"{what}: with required= or rejections= an answer must say whether it approves: "
                "give the schema a field `approved: bool`"
            )
        policy._check_reachable(what, starters)
        return policy

    def _check_reachable(self, what: str, starters: Set[str]) -> None:
        """Raises `ConfigurationError` if the named approvers are too few to always reach a decision."""
        people = {one for one in self.approvers if not one.startswith(GROUP)}
        if not people or len(people) < len(set(self.approvers)):
            return  # anybody, or somebody of a group
        distinct = {canonical(one) for one in people}
        may_decide = len(distinct if self.allow_self else distinct - {canonical(one) for one in starters})
        needed = self.required + self.rejections - 1
        if may_decide < needed:
            raise ConfigurationError(
                f"{what}: with required={self.required} and rejections={self.rejections} it may take "
                f"{needed} people, but approvers names {may_decide} who may decide: it could stay undecided"
            )

    @property
    def counts(self) -> bool:
        """Whether it takes more than one answer."""
        return self.required > 1 or self.rejections > 1

    def pack(self) -> bytes:
        """Returns the stored form, which answer.lua reads; empty for the policy that accepts anything."""
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
        """Read the stored form, without the fields of newer releases."""
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

    async def check_answer(self, execution_id: str, step_key: str, answer: Any) -> None:
        """Raises `InvalidAnswerError` if the answer (plain JSON) does not fit."""
        errors: list[dict[str, str]] = []
        if self.schema is not None:
            errors = await bounds.run(answer, schema_errors.errors_in(self.schema, self.type_name, answer))
        if not errors and self.counts and verdict(answer) is None:
            errors = [{"field": "approved", "message": "must be true or false: does this answer approve?"}]
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
        """Raises `NotApproverError` if this person may not decide."""
        if not who and (self.approvers or self.counts or not self.allow_self):
            raise NotApproverError(execution_id, step_key, who, "the answer must name who decides")
        names = {who, *(GROUP + group for group in groups)}
        if who is not None and who.startswith(GROUP):
            names.discard(who)  # nobody becomes a group by calling themselves one
        if self.approvers and names.isdisjoint(self.approvers):
            raise NotApproverError(execution_id, step_key, who, f"it is for {', '.join(self.approvers)}")
        if not self.allow_self and canonical(who or "") in {canonical(one) for one in starters}:
            raise NotApproverError(execution_id, step_key, who, "the person who started it may not decide it")


ANYTHING = AnswerPolicy()


def _approver_names(what: str, approvers: Iterable[str]) -> tuple[str, ...]:
    names = () if isinstance(approvers, str) or not isinstance(approvers, Iterable) else tuple(approvers)
    if not names or not all(isinstance(one, str) and one.removeprefix(GROUP) for one in names):
        raise ConfigurationError(
            f"{what}: approvers must be a non-empty list of names and group:NAME, not {approvers!r}; "
            "omit it to let anybody decide"
        )
    return names


def verdict(answer: Any) -> bool | None:
    """Returns whether an answer approves, by its boolean field `approved`; None without one."""
    approved = answer.get("approved") if isinstance(answer, dict) else None
    return approved if isinstance(approved, bool) else None
