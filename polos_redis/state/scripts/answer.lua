#!lua
-- answer: decide a suspension with a person's answer, or say why not. A suspension with an answer policy is only
-- decided by an answer that was checked against it.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 step key  3 answer (codec)  4 its digest  5 who, or ''  6 channel  7 '1' to keep it when early
--       8 the opening of the suspension that it was checked against, '' for none  9 '1' when it approves, '0' when not
--       10 the groups of who answers (msgpack list), kept with an early answer
--       11 who, by the name that tells people apart (5 where it is left out)
--       12 the id of the API key it is given with, or '', kept with an early answer
--       13 the id of an API key that is no longer valid: this answer replaces an early one given with it
-- Returns {'accepted' | 'recorded', decided in ms, by, how many decided alike, how many it takes},
-- {'same' | 'kept' | 'other', decided in ms, by} (and, if an early answer stands, the id of its API key or ''),
-- {'expired', deadline}, {'closed', status},
-- {'unknown', open step keys ...}, {'look', record, origin or false} when it has to be checked against this,
-- {'full'} (too many early ones), or {'missing'} (no such execution).
-- #include wake
-- #include early
local P, id, key, answer, digest, by, channel, keep, seen, approves, groups, person, api_key, invalid_key =
  KEYS[1], unpack(ARGV)
person, api_key = person or by, api_key or ''
local DECISION_AT <const> = 5
local DECISION_APPROVES <const> = 6
local DECISION_PERSON <const> = 7

local status, waits = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'waits'))
if not status then return {'missing'} end
local packed = key ~= '' and redis.call('HGET', P .. 'journal:' .. id, key)
local record = packed and read_record(packed)

if record and record[KIND] == 'suspend' then
  local is, policy = record[STATUS], record[POLICY]
  local opening = string.format('%.0f:', record[OPENED]) .. redis.sha1hex(policy .. (record[SHOWN_DIGEST] or ''))
  if (policy ~= '' or seen ~= '') and seen ~= opening then
    return {'look', packed, redis.call('HGET', P .. 'exec:' .. id, 'origin')}
  end
  local made = record[DECISIONS] ~= '' and cmsgpack.unpack(record[DECISIONS]) or {}
  local mine -- the same person's earlier decision
  for _, one in ipairs(made) do if (one[DECISION_PERSON] or one[DECISION_BY]) == person then mine = one end end
  if mine and mine[DECISION_DIGEST] ~= digest then return {'other', mine[DECISION_AT], mine[DECISION_BY]} end
  if is == 'answered' then
    return {(mine or record[DIGEST] == digest) and 'same' or 'other', record[DECIDED], record[BY]}
  elseif is == 'expired' then
    return {'expired', record[DEADLINE]}
  elseif is == 'closed' then
    return {'closed', status}
  elseif record[DEADLINE] > 0 and record[DEADLINE] <= now then
    wake(P, id, key, record, 'expired')
    return {'expired', record[DEADLINE]}
  end
  local wanted = policy ~= '' and cmsgpack.unpack(policy) or {required = 1, rejections = 1}
  local needed = approves == '1' and wanted.required or wanted.rejections
  if wanted.required > 1 or wanted.rejections > 1 then
    if not mine then made[#made + 1] = {answer, digest, by, channel, now, approves, person} end
    local alike = 0
    for _, one in ipairs(made) do if one[DECISION_APPROVES] == approves then alike = alike + 1 end end
    if mine then return {'recorded', mine[DECISION_AT], mine[DECISION_BY], alike, needed} end
    record[DECISIONS] = cmsgpack.pack(made)
    if alike < needed then
      rewrite(P, id, key, record)
      record[ANSWER], record[BY], record[CHANNEL], record[DECIDED] = answer, by, channel, now
      note_audit(P, id, key, record, 'recorded')
      emit(P, id, key, 'decision', answer_event(record))
      return {'recorded', now, by, alike, needed}
    end
  end
  record[ANSWER], record[DIGEST], record[BY], record[CHANNEL] = answer, digest, by, channel
  wake(P, id, key, record, 'answered')
  return {'accepted', now, by, needed, needed}
end

if keep == '1' and not is_live(status) then return {'closed', status} end
if keep == '1' and key ~= '' and not record then
  local early = P .. 'early:' .. id
  local kept = redis.call('HGET', early, key)
  if kept then
    local _, kept_digest, kept_by, _, kept_at, _, kept_key = unpack(cmsgpack.unpack(kept), EARLY_ANSWER)
    if kept_key == '' or kept_key ~= invalid_key then
      return {kept_digest == digest and 'kept' or 'other', kept_at, kept_by, kept_key}
    end
  elseif redis.call('HLEN', early) >= 100 then
    return {'full'}
  end
  redis.call('HSET', P .. 'exec:' .. id, 'early', 1)
  redis.call('HSET', early, key, cmsgpack.pack({1, answer, digest, by, channel, now, groups, api_key}))
  return {'kept', now, by}
end

local open = {'unknown'}
for _, one in ipairs(read_waits(waits)) do
  local its = record_of(P, id, one)
  if its[KIND] == 'suspend' and its[STATUS] == 'open' then open[#open + 1] = one end
end
return open
