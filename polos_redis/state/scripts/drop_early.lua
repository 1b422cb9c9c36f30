#!lua flags=allow-oom
-- drop_early: drop an early answer, which its suspension has got, or which was refused: the audit says so then.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 step key  3 digest of the early answer
-- Returns 1, or 0 when it is not there any more (or another is, and stays).
-- #include clock
-- #include early
local P, id, key, digest = KEYS[1], unpack(ARGV)
local packed = redis.call('HGET', P .. 'early:' .. id, key)
if not packed or read_record(packed)[EARLY_DIGEST] ~= digest then return 0 end
note_unused(P, id, key, packed)
return redis.call('HDEL', P .. 'early:' .. id, key)
