"""`ctx.step` calls, and parking."""
