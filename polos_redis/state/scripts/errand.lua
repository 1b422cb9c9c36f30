#!lua flags=allow-oom
-- errand: one is done, or has to be done (again) later.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand  2 its due time as the caller saw it  3 ms from now until it is due again, '' when it is done
-- Returns 1, or 0 when it was put off or renewed meanwhile (nothing is changed).
-- #include clock
local errands = KEYS[1] .. 'errands'
if tonumber(redis.call('ZSCORE', errands, ARGV[1]) or -1) ~= tonumber(ARGV[2]) then return 0 end
if ARGV[3] ~= '' then
  redis.call('ZADD', errands, now + tonumber(ARGV[3]), ARGV[1])
else
  redis.call('ZREM', errands, ARGV[1])
end
return 1
