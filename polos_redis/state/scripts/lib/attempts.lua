-- #include resolve
-- `errand_failures` maps an errand to what is known of its attempts since it last succeeded, one msgpack array that
-- begins with the version of its format.
local ATTEMPTS <const> = 2 -- how many have failed; one that is being made counts
local LATEST <const> = 3 -- the name of the latest one, '' when it no longer counts
local TRIED <const> = 4 -- when it failed, or began, ms
local REASON <const> = 5 -- why it failed; of one that is being made, why it has if nobody says otherwise
-- 6: of one that is being made, until when it may run, ms

-- attempts_at: what is known of the attempts at an errand.
local function attempts_at(P, errand)
  local packed = redis.call('HGET', P .. 'errand_failures', errand)
  return packed and cmsgpack.unpack(packed) or {1, 0, '', 0, ''}
end

-- note_attempt: store that an attempt was made, and why it failed; or that it is being made, and until when at most.
local function note_attempt(P, errand, attempts, attempt, reason, until_ms)
  redis.call('HSET', P .. 'errand_failures', errand, cmsgpack.pack({1, attempts, attempt, now, reason, until_ms}))
end

-- set_aside: keep an errand that has failed too often, without running it again. The audit of a suspension says so of
-- an answer that came before it.
local function set_aside(P, errand)
  redis.call('ZADD', P .. 'errands', '+inf', errand)
  local id, key = string.match(errand, '^y(%S+) (.*)$')
  local early = id and redis.call('HGET', P .. 'early:' .. id, key)
  local record = early and record_of(P, id, key)
  if not record or record[STATUS] ~= 'open' then return end
  local answer, _, by, channel = unpack(read_record(early), 2) -- it may be damaged
  record[ANSWER], record[BY], record[CHANNEL] = answer or '', by or '', channel or ''
  note_audit(P, id, key, record, 'set aside')
end
