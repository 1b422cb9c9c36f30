"""Answer policies: which answers a suspension accepts, and from whom.

The policy is stored with the suspension. So every way in (client, command, topic, REST, page) checks an
answer before the workflow wakes, without the workflow's code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from polos_redis.decisions.answer_types import AnswerTypes, Rejection, verdict
from polos_redis.decisions.people import GROUP, check_name
from polos_redis.errors import ConfigurationError, InvalidAnswerError, NotApproverError
from polos_redis.values import bounds, schema_errors, schemas, type_names
from polos_redis.values.complete_form import complete_form
from polos_redis.values.names import canonical
from polos_redis.values.plain import is_json, is_text

MOST_REQUIRED = 100


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """The answers a suspension accepts.

    `schema` is a JSON schema and `type_name` the type it was made of; an answer with `approved: false` has to
    fit `reject_schema` instead, if there is one. `approvers` are names or `group:NAME`; empty means anybody.
    `required` approvals (`data["approved"] is True`) by distinct people decide, or `rejections` rejections.
    `allow_self` lets those who started the execution decide.
    """

    schema: dict[str, Any] | None = None
    type_name: str = ""
    approvers: tuple[str, ...] = ()
    required: int = 1
    rejections: int = 1
    allow_self: bool = True
    reject_schema: dict[str, Any] | None = None
    reject_type_name: str = ""

    @classmethod
    def of(
        cls,
        what: str,
        types: AnswerTypes,
        approvers: Iterable[str] | None,
        required: int,
        rejections: int,
        allow_self: bool,
        starters: Set[str],
    ) -> AnswerPolicy:
        """Returns the policy a workflow declares; `starters` are the people who started the execution.

        Raises `ConfigurationError`.
        """
        schema, type_name, reject_schema, reject_type_name = types.describe(what)
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
        policy = cls(
            schema,
            type_name,
            names,
            required,
            rejections,
            bool(allow_self),
            reject_schema,
            reject_type_name,
        )
        members = schemas.alternatives(schema) if schema is not None else []
        if policy.counts and any("approved" not in one.get("properties", {}) for one in members):
            raise ConfigurationError(
                f"{what}: with required= or rejections= an answer must say whether it approves: "
                "give the schema a field `approved: bool`"
            )
        policy._check_reachable(what, starters)
        return policy

    def _check_reachable(self, what: str, starters: Set[str]) -> None:
        """Raises `ConfigurationError` if the named approvers are too few to always reach a decision."""
        if not self.approvers or any(one.startswith(GROUP) for one in self.approvers):
            return  # anybody, or somebody of a group
        distinct = {canonical(one) for one in self.approvers}
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
                "schema": _packed(self.schema),
                "type": self.type_name,
                "reject": _packed(self.reject_schema),
                "reject_type": self.reject_type_name,
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
            json.loads(found["reject"]) if found["reject"] else None,
            found["reject_type"],
        )

    async def check_answer(self, execution_id: str, step_key: str, answer: Any) -> None:
        """Raises `InvalidAnswerError` if the answer (plain JSON) does not fit."""
        schema, type_name = self.schema, self.type_name
        if self.reject_schema is not None and verdict(answer) is False:
            schema, type_name = self.reject_schema, self.reject_type_name
        errors: list[dict[str, str]] = []
        if schema is not None:
            errors = await bounds.run(answer, schema_errors.errors_in(schema, type_name, answer))
        if not errors and schema is not None and not is_text(answer):
            errors = [{"field": "", "message": "it has half of a surrogate pair, which no text may have"}]
        may_be_silent = self.reject_schema is None or not isinstance(answer, dict)  # None, of `A | None`
        says = (not self.counts and may_be_silent) or verdict(answer) is not None
        if not errors and not says:
            errors = [{"field": "approved", "message": "must be true or false: does this answer approve?"}]
        if errors:
            raise InvalidAnswerError(execution_id, step_key, errors)

    def form_of(self, answer: Any) -> tuple[Any, bool]:
        """Returns the complete form of an answer, and whether it is an instance of a declared type."""
        names = (self.type_name, self.reject_type_name)
        types = [cls for name in names if name and (cls := type_names.find_type(name)) is not None]
        is_instance = isinstance(answer, (*types, Rejection))
        return answer if is_json(answer) else complete_form(answer, floats=is_instance), is_instance

    async def check_instance(self, execution_id: str, step_key: str, form: Any) -> None:
        """Raises `InvalidAnswerError` if the complete form of an instance fits neither its type nor its JSON
        schema: the type's validators have accepted the instance once, and need not accept its form."""
        try:
            await self.check_answer(execution_id, step_key, form)
        except InvalidAnswerError:
            by_schema = replace(self, type_name="", reject_type_name="")
            await by_schema.check_answer(execution_id, step_key, form)

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
        person = canonical(who or "")
        names = {GROUP + canonical(group) for group in groups}
        if not person.startswith(GROUP):  # nobody becomes a group by calling themselves one
            names.add(person)
        if self.approvers and names.isdisjoint(map(_canonical_approver, self.approvers)):
            raise NotApproverError(execution_id, step_key, who, f"it is for {', '.join(self.approvers)}")
        if not self.allow_self and person in {canonical(one) for one in starters}:
            raise NotApproverError(execution_id, step_key, who, "the person who started it may not decide it")


ANYTHING = AnswerPolicy()


def _approver_names(what: str, approvers: Iterable[str]) -> tuple[str, ...]:
    names = () if isinstance(approvers, str) or not isinstance(approvers, Iterable) else tuple(approvers)
    if not names or not all(isinstance(one, str) and one.removeprefix(GROUP) for one in names):
        raise ConfigurationError(
            f"{what}: approvers must be a non-empty list of names and group:NAME, not {approvers!r}; "
            "omit it to let anybody decide"
        )
    for one in names:
        check_name(f"{what}: an approver", one.removeprefix(GROUP))
    return names


def _canonical_approver(approver: str) -> str:
    """The form in which a name or `group:NAME` among approvers is compared."""
    is_group = approver.startswith(GROUP)
    return GROUP + canonical(approver.removeprefix(GROUP)) if is_group else canonical(approver)


def _packed(schema: dict[str, Any] | None) -> str:
    return "" if schema is None else json.dumps(schema, separators=(",", ":"))
