"""What `@workflow(trigger_on_event=)` declares."""

from __future__ import annotations

from dataclasses import dataclass

from polos_redis.errors import ConfigurationError
from polos_redis.state import keys

LARGEST = 1000  # events in a batch


@dataclass(frozen=True, slots=True)
class Trigger:
    """The topic whose events begin a workflow, how many of them one execution is given at the most, and how
    long a batch is waited for to fill, in seconds from its first event; None begins with what is there."""

    topic: str
    batch_size: int = 1
    batch_timeout_seconds: float | None = None

    @classmethod
    def of(
        cls, topic: str | None, batch_size: int, batch_timeout_seconds: float | None, workflow_id: str
    ) -> Trigger | None:
        """As a workflow's decorator is given it. Raises `ConfigurationError`."""
        what = f"workflow {workflow_id!r}"
        if topic is None:
            if batch_size != 1 or batch_timeout_seconds is not None:
                raise ConfigurationError(
                    f"{what}: batch_size and batch_timeout_seconds go with trigger_on_event: give it a topic"
                )
            return None
        if not isinstance(topic, str) or not topic or keys.parse_topic(topic)[1] is not None:
            raise ConfigurationError(
                f"{what}: trigger_on_event is a topic's name, a text that is not empty and not the topic "
                f"of an execution, not {topic!r}"
            )
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or not 1 <= batch_size <= LARGEST:
            raise ConfigurationError(
                f"{what}: batch_size is a whole number from 1 to {LARGEST}, not {batch_size!r}"
            )
        seconds = batch_timeout_seconds
        if seconds is not None and (
            not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 <= seconds < 1e7
        ):
            raise ConfigurationError(
                f"{what}: batch_timeout_seconds is a number of seconds from 0, or None, not {seconds!r}"
            )
        return cls(topic, batch_size, seconds)
