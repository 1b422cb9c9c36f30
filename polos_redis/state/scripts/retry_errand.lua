#!lua flags=allow-oom
-- retry_errand: make an errand that has failed due now, with no attempt counted.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand
-- Returns 1, or 0 when it has not failed.
-- #include errands
local P, errand = KEYS[1], unpack(ARGV)
if redis.call('HDEL', P .. 'errand_failures', errand) == 0 then return 0 end
if redis.call('ZSCORE', P .. 'errands', errand) then note_errand(P, errand) end
return 1
