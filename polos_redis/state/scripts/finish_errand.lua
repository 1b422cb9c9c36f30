#!lua flags=allow-oom
-- finish_errand: remove an errand that is done, or postpone it; its failures are forgotten. Or take back an attempt
-- that is not to count, as Redis was away.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand  2 its due time as the caller saw it  3 ms from now until it is due again, '' when it is done
--       4 the attempt to take back, '' for none
-- Returns 1, or 0 when it was postponed or noted again meanwhile (it stays as it is).
-- #include attempts
local P, errand, due, delay, attempt = KEYS[1], unpack(ARGV)
local errands, failures = P .. 'errands', P .. 'errand_failures'
local made = attempt ~= '' and attempts_at(P, errand)
if not made or (made[LATEST] == attempt and made[ATTEMPTS] == 1) then
  redis.call('HDEL', failures, errand)
elseif made[LATEST] == attempt then
  note_attempt(P, errand, made[ATTEMPTS] - 1, '', made[REASON])
end
if tonumber(redis.call('ZSCORE', errands, errand) or -1) ~= tonumber(due) then return 0 end
if delay ~= '' then
  redis.call('ZADD', errands, now + tonumber(delay), errand)
else
  redis.call('ZREM', errands, errand)
end
return 1
