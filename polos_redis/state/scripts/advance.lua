#!lua flags=allow-oom
-- advance: what a subscriber has been given counts as given; another errand of the topic may have been quicker.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member  3 the place it was at  4 the new place, '' to end the subscription
-- Returns 1, or 0 when it is not at that place any more.
local subs = KEYS[1] .. 'subs:' .. ARGV[1]
if redis.call('HGET', subs, ARGV[2]) ~= ARGV[3] then return 0 end
if ARGV[4] == '' then redis.call('HDEL', subs, ARGV[2]) else redis.call('HSET', subs, ARGV[2], ARGV[4]) end
return 1
