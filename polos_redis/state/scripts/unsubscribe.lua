#!lua flags=allow-oom
-- unsubscribe: end a subscription, at any place, and the errand that checks it.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member, as for subscribe
-- Returns 1, or 0 when it had not subscribed.
-- #include subscribe
local P, topic, member = KEYS[1], unpack(ARGV)
local check = subscription_check(topic, member)
redis.call('ZREM', P .. 'errands', check)
redis.call('HDEL', P .. 'errand_failures', check)
return redis.call('HDEL', P .. 'subs:' .. topic, member)
