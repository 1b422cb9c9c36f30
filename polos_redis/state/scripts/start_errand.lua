#!lua flags=allow-oom
-- start_errand: count an attempt at an errand before it is made: a worker that dies in it counts as well. Meanwhile the
-- errand is not due; after the longest that an attempt takes it is, for another worker.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand  2 its due time as the caller saw it  3 the attempt: a name of its own  4 attempts that an errand has
--       5 '1' when it may have failed before: such errands start one at a time  6 the longest an attempt takes, ms
-- Returns {'started', its due time}, {'failed before'}, {'set aside', attempts, reason}, or {'changed'} when it is
-- gone, or was noted again meanwhile.
-- #include attempts
local P, errand, due, attempt, most, alone, longest = KEYS[1], unpack(ARGV)
local errands = P .. 'errands'
local is_due, made = redis.call('ZSCORE', errands, errand), attempts_at(P, errand)
if is_due and made[LATEST] == attempt then return {'started', is_due} end -- its reply was lost
if tonumber(is_due or -1) ~= tonumber(due) then return {'changed'} end
if made[ATTEMPTS] >= tonumber(most) then
  set_aside(P, errand)
  return {'set aside', made[ATTEMPTS], made[REASON]}
end
if made[ATTEMPTS] > 0 and alone ~= '1' then return {'failed before'} end
note_attempt(P, errand, made[ATTEMPTS] + 1, attempt, 'the worker that ran it died, was stopped or was blocked',
  now + tonumber(longest))
redis.call('ZADD', errands, now_us / 1000 + tonumber(longest), errand)
return {'started', redis.call('ZSCORE', errands, errand)}
