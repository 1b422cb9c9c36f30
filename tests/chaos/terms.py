"""What workflows, load and audit agree on."""

NEWS, ORDERS = "chaos-news", "chaos-orders"  # topics
NARROW, KEYED = 2, 1  # the limits of two queues
REQUIRED = 2  # people, of those who may decide
TALLIED = "a after a b after b c"  # the final state of `tally`
