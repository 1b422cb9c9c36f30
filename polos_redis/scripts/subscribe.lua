#!lua flags=allow-oom
-- subscribe: note that somebody wants the events of a topic from now on; who has subscribed before keeps the place.
-- KEYS  1 the partition's prefix
-- ARGV  1 topic  2 member: 'w<execution> <step key>' or 't<workflow>'
-- Returns the id of the last event before.
local P, subs = KEYS[1], KEYS[1] .. 'subs:' .. ARGV[1]
local last = redis.call('XREVRANGE', P .. 'topic:' .. ARGV[1], '+', '-', 'COUNT', 1)[1]
redis.call('HSETNX', subs, ARGV[2], last and last[1] or '0-0')
return redis.call('HGET', subs, ARGV[2])
