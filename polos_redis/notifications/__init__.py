"""Notifications: the channels that reach people, and the outbox that delivers open suspensions to them."""

from polos_redis.notifications.channels import Channel, Notification, NotSentError
from polos_redis.notifications.webhook import WebhookChannel

__all__ = ["Channel", "NotSentError", "Notification", "WebhookChannel"]
