"""What `@workflow` declares: queues, schedules, triggers, and the definitions that workers publish."""
