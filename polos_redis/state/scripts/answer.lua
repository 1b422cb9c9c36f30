#!lua
-- answer: decide a suspension with a person's answer, or say why not. One that has policy is only decided by an answer
-- that was checked against them.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 step key  3 answer (codec)  4 its digest  5 who, or ''  6 channel  7 '1' to keep it when early
--       8 the opening of the suspension that it was checked against, '' for none  9 '1' when it approves, '0' when not
--       10 the groups of who answers (msgpack list), kept with an early one  11 who, as several people are told apart
-- Returns {'accepted' | 'same' | 'kept', decided in ms, by}, {'recorded', ms, by, how many of them, how many it takes},
-- {'other', decided in ms, by}, {'expired', deadline}, {'closed', status}, {'unknown', open step keys ...},
-- {'look', record, about or false} when it has to be checked against this, {'full'} (too many early ones), or {'missing'} (no
-- such execution).
-- #include wake
-- #include resolve
local P, id, key, digest = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'waits')
if not e[1] then return {'missing'} end
local finished = e[1] ~= 'queued' and e[1] ~= 'waiting'
local packed = key ~= '' and redis.call('HGET', P .. 'journal:' .. id, key)
local record = packed and read_record(packed)

if record and record[2] == 'suspend' then
  local status, policy = record[STATUS], record[POLICY]
  local opening = string.format('%.0f:', record[OPENED]) .. redis.sha1hex(policy .. (record[SHOWN_DIGEST] or ''))
  if (policy ~= '' or ARGV[8] ~= '') and ARGV[8] ~= opening then
    return {'look', packed, redis.call('HGET', P .. 'exec:' .. id, 'origin')}
  end
  local made = record[DECISIONS] ~= '' and cmsgpack.unpack(record[DECISIONS]) or {}
  local mine -- what the same person has decided before, where several have to
  local person = ARGV[11] or ARGV[5]
  for _, one in ipairs(made) do if (one[7] or one[3]) == person then mine = one end end
  if mine and mine[2] ~= digest then return {'other', mine[5], mine[3]} end
  if status == 'answered' then
    return {(mine or record[DIGEST] == digest) and 'same' or 'other', record[DECIDED], record[BY]}
  elseif status == 'expired' then
    return {'expired', record[DEADLINE]}
  elseif status == 'closed' then
    return {'closed', e[1]}
  elseif record[DEADLINE] > 0 and record[DEADLINE] <= now then
    wake(P, id, key, resolve(P, id, key, record, 'expired', now))
    return {'expired', record[DEADLINE]}
  end
  local wanted = policy ~= '' and cmsgpack.unpack(policy) or {required = 1, rejections = 1}
  local needed = ARGV[9] == '1' and wanted.required or wanted.rejections
  if wanted.required > 1 or wanted.rejections > 1 then
    if not mine then made[#made + 1] = {ARGV[3], digest, ARGV[5], ARGV[6], now, ARGV[9], person} end
    local alike = 0
    for _, one in ipairs(made) do if one[6] == ARGV[9] then alike = alike + 1 end end
    if mine then return {'recorded', mine[5], mine[3], alike, needed} end
    record[DECISIONS] = cmsgpack.pack(made)
    if alike < needed then
      rewrite(P, id, key, record)
      record[ANSWER], record[BY], record[CHANNEL], record[DECIDED] = ARGV[3], ARGV[5], ARGV[6], now
      note_audit(P, id, key, record, 'recorded', now)
      emit(P, id, key, 'decision', answer_event(record))
      return {'recorded', now, ARGV[5], alike, needed}
    end
  end
  record[ANSWER], record[DIGEST], record[BY], record[CHANNEL] = ARGV[3], digest, ARGV[5], ARGV[6]
  wake(P, id, key, resolve(P, id, key, record, 'answered', now))
  return {'accepted', now, ARGV[5], needed, needed}
end

if finished and ARGV[7] == '1' then return {'closed', e[1]} end
if ARGV[7] == '1' and key ~= '' and not record then
  local early = P .. 'early:' .. id
  local kept = redis.call('HGET', early, key)
  if kept then
    kept = cmsgpack.unpack(kept)
    return {kept[2] == digest and 'kept' or 'other', kept[5], kept[3]}
  end
  if redis.call('HLEN', early) >= 100 then return {'full'} end
  redis.call('HSET', P .. 'exec:' .. id, 'early', 1)
  redis.call('HSET', early, key, cmsgpack.pack({ARGV[3], digest, ARGV[5], ARGV[6], now, ARGV[10]}))
  return {'kept', now, ARGV[5]}
end
local open = {'unknown'}
if e[2] then
  for _, k in ipairs(cmsgpack.unpack(e[2])) do
    local r = redis.call('HGET', P .. 'journal:' .. id, k)
    local one = r and read_record(r) or {}
    if one[2] == 'suspend' and one[STATUS] == 'open' then open[#open + 1] = k end
  end
end
return open
