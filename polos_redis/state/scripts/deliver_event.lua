#!lua flags=allow-oom
-- deliver_event: decide a wait with an event of a topic whose subscription is in another partition, or one of very
-- many.
-- KEYS  1 the partition's prefix
-- ARGV  1 subscriber (see open_wait)  2 event id  3 event type  4 data (codec)
-- Returns 1, 0 when it does not wait, or no longer, or -1 when it has subscribed and its wait is about to open.
-- #include event
local P, member, event, kind, data = KEYS[1], unpack(ARGV)
if occur(P, member, event, kind, data) then return 1 end
local id, key = who_waits(member)
local status, entry = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'entry'))
local lives = status == 'queued' and entry == string.match(member, '^%a(%S+)')
return lives and redis.call('HEXISTS', P .. 'journal:' .. id, key) == 0 and -1 or 0
