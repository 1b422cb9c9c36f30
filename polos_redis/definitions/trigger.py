"""Triggers: the topics whose events start a workflow, as `@workflow(trigger_on_event=)` declares them."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys

LARGEST = 1000  # events in a batch


@dataclass(frozen=True, slots=True)
class Trigger:
    """The topic whose events start a workflow, and how they are batched.

    `batch_size` is the most events one execution gets. `batch_timeout_seconds` is how long to wait for a
    batch to fill, from its first event; None starts with the events that are there.
    """

    topic: str
    batch_size: int = 1
    batch_timeout_seconds: float | None = None

    @classmethod
    def of(
        cls, topic: str | None, batch_size: int, batch_timeout_seconds: float | None, workflow_id: str
    ) -> Trigger | None:
        """Returns the trigger of the decorator's options, if any. Raises `ConfigurationError`."""
        what = f"workflow {workflow_id!r}"
        if topic is None:
            if batch_size != 1 or batch_timeout_seconds is not None:
                raise ConfigurationError(
                    f"{what}: batch_size and batch_timeout_seconds need trigger_on_event"
                )
            return None
        keys.check_text(f"{what}: trigger_on_event", topic, keys.LONGEST_TOPIC, error=ConfigurationError)
        if keys.parse_topic(topic)[1] is not None:
            raise ConfigurationError(
                f"{what}: trigger_on_event can't be the topic of an execution, {topic!r}"
            )
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or not 1 <= batch_size <= LARGEST:
            raise ConfigurationError(
                f"{what}: batch_size must be a whole number from 1 to {LARGEST}, not {batch_size!r}"
            )
        seconds = batch_timeout_seconds
        if seconds is not None and (
            not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 1e7
        ):
            raise ConfigurationError(
                f"{what}: batch_timeout_seconds must be a number of seconds of at least 0, or None, "
                f"not {seconds!r}"
            )
        return cls(topic, batch_size, seconds)
