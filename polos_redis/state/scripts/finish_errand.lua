#!lua flags=allow-oom
-- finish_errand: remove an errand that is done, or postpone it.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand  2 its due time as the caller saw it  3 ms from now until it is due again, '' when it is done
-- Returns 1, or 0 when it was postponed or noted again meanwhile (nothing is changed).
-- #include clock
local P, errand, due, delay = KEYS[1], unpack(ARGV)
local errands = P .. 'errands'
if tonumber(redis.call('ZSCORE', errands, errand) or -1) ~= tonumber(due) then return 0 end
if delay ~= '' then
  redis.call('ZADD', errands, now + tonumber(delay), errand)
else
  redis.call('ZREM', errands, errand)
end
return 1
