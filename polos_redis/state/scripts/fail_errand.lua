#!lua flags=allow-oom
-- fail_errand: note that an attempt at an errand has failed, and postpone the errand, five times as long after each
-- failure, or set it aside after the last one.
-- KEYS  1 the partition's prefix
-- ARGV  1 errand  2 its due time as the caller saw it  3 the attempt, '' when it was not counted when it started
--       4 attempts that an errand has, 0 when it is never set aside  5 ms until it is due again after the first
--       failure  6 the longest such time, ms  7 why it failed
-- Returns {'later', ms, attempts}, {'set aside', 0, attempts}, or {'changed', 0, attempts} when it is gone, or was
-- noted again meanwhile and is due.
-- #include attempts
local P, errand, due, attempt, most, first, longest, reason = KEYS[1], unpack(ARGV)
local errands = P .. 'errands'
local is_due, made = redis.call('ZSCORE', errands, errand), attempts_at(P, errand)
if not is_due then return {'changed', 0, 0} end
local attempts = made[ATTEMPTS]
if attempt == '' then
  attempts = attempts + 1
elseif made[LATEST] ~= attempt then
  return {'changed', 0, attempts}
end
note_attempt(P, errand, attempts, attempt, reason)
if is_due == 'inf' then return {'set aside', 0, attempts} end -- by this call, whose reply was lost
if tonumber(is_due) ~= tonumber(due) then return {'changed', 0, attempts} end
if tonumber(most) > 0 and attempts >= tonumber(most) then
  set_aside(P, errand)
  return {'set aside', 0, attempts}
end
local delay = math.min(tonumber(longest), tonumber(first) * 5 ^ math.min(attempts - 1, 20))
redis.call('ZADD', errands, now + delay, errand)
return {'later', delay, attempts}
