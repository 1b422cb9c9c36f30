"""Definitions of workflows: what `@workflow` declares, and what workers publish of it."""
