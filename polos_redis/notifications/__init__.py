"""Notifications of opened suspensions: channels, and the outbox that delivers them."""

from polos_redis.notifications.channels import Channel, Notification, NotSentError, WebhookChannel

__all__ = ["Channel", "NotSentError", "Notification", "WebhookChannel"]
