"""The journaled calls of `ctx.step`, one file per noun."""
