-- #include clock
-- #include wake
-- #include resolve
-- who_waits: the execution and step key of a subscriber: 'w' or 'f', entry, id, step key.
local function who_waits(member)
  return string.match(member, '^%a%S+ (%S+) (.*)$')
end

-- occur: an event decides the wait that has subscribed as `member`; nil when it does not wait (any more).
local function occur(P, member, event, kind, data)
  local id, key = who_waits(member)
  local packed = redis.call('HGET', P .. 'journal:' .. id, key)
  local record = packed and read_record(packed) or {}
  if record[2] ~= 'wait' or record[STATUS] ~= 'open' or record[7] ~= member then return end
  if record[DEADLINE] > 0 and record[DEADLINE] <= now then
    wake(P, id, key, resolve(P, id, key, record, 'expired', now))
    return
  end
  record[8], record[9], record[10] = event, kind, data
  wake(P, id, key, resolve(P, id, key, record, 'event', now))
  return true
end
