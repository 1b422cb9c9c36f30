"""The calls of `ctx.step`, and parking."""
