"""The journaled calls of a workflow, `ctx.step`, by what they do."""
