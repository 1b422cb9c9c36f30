#!lua flags=allow-oom
-- advance_subscription: move a subscription past the events it was given, unless another errand of the topic was
-- quicker.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member  3 the place it was at  4 the new place, '' to end the subscription
-- Returns 1, or 0 when it is not at that place any more.
local P, topic, member, from, to = KEYS[1], unpack(ARGV)
local subs = P .. 'subs:' .. topic
if redis.call('HGET', subs, member) ~= from then return 0 end
if to == '' then redis.call('HDEL', subs, member) else redis.call('HSET', subs, member, to) end
return 1
