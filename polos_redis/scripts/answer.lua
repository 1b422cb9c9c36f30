#!lua
-- answer: decide a suspension with a person's answer, or say why not.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 step key  3 answer (codec)  4 its digest  5 who, or ''  6 channel  7 '1' to keep it when early
-- Returns {'accepted' | 'same' | 'kept', decided in ms, by}, {'other', decided in ms, by}, {'expired', deadline},
-- {'closed', status}, {'unknown', open step keys ...} or {'missing'} (no such execution).
-- #include wake
-- #include settle
local P, id, key, digest = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'waits')
if not e[1] then return {'missing'} end
local finished = e[1] ~= 'queued' and e[1] ~= 'waiting'
local packed = key ~= '' and redis.call('HGET', P .. 'journal:' .. id, key)
local record = packed and read_record(packed)

if record and record[2] == 'suspend' then
  local status = record[STATUS]
  if status == 'answered' then
    return {record[DIGEST] == digest and 'same' or 'other', record[DECIDED], record[BY]}
  elseif status == 'expired' then
    return {'expired', record[DEADLINE]}
  elseif status == 'closed' then
    return {'closed', e[1]}
  elseif record[DEADLINE] > 0 and record[DEADLINE] <= now then
    wake(P, id, key, settle(P, id, key, record, 'expired', now))
    return {'expired', record[DEADLINE]}
  end
  record[ANSWER], record[DIGEST], record[BY], record[CHANNEL] = ARGV[3], digest, ARGV[5], ARGV[6]
  wake(P, id, key, settle(P, id, key, record, 'answered', now))
  return {'accepted', now, ARGV[5]}
end

if finished and ARGV[7] == '1' then return {'closed', e[1]} end
if ARGV[7] == '1' and key ~= '' and not record then
  local early = P .. 'early:' .. id
  local kept = redis.call('HGET', early, key)
  if kept then
    kept = cmsgpack.unpack(kept)
    return {kept[2] == digest and 'kept' or 'other', kept[5], kept[3]}
  end
  redis.call('HSET', P .. 'exec:' .. id, 'early', 1)
  redis.call('HSET', early, key, cmsgpack.pack({ARGV[3], digest, ARGV[5], ARGV[6], now}))
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
