-- #include clock
-- #include wake
-- #include settle
-- occur: an event decides the wait for it; nil when nobody waits (any more).
local function occur(P, id, key, event, kind, data)
  local packed = redis.call('HGET', P .. 'journal:' .. id, key)
  local record = packed and read_record(packed) or {}
  if record[2] ~= 'wait' or record[STATUS] ~= 'open' then return end
  if record[DEADLINE] > 0 and record[DEADLINE] <= now then
    wake(P, id, key, settle(P, id, key, record, 'expired', now))
    return
  end
  record[8], record[9], record[10] = event, kind, data
  wake(P, id, key, settle(P, id, key, record, 'event', now))
  return true
end
