-- #include wake
-- who_waits: the execution and the step key of a subscriber: 'w' or 'f', then entry, id, step key.
local function who_waits(member)
  return string.match(member, '^%a%S+ (%S+) (.*)$')
end

-- occur: decide the wait that has subscribed as `member` with an event. Returns true, or nil when it does not wait, or
-- no longer.
local function occur(P, member, event, kind, data)
  local id, key = who_waits(member)
  local record = record_of(P, id, key)
  if record[KIND] ~= 'wait' or record[STATUS] ~= 'open' or record[WAIT_SUBSCRIBER] ~= member then return end
  if record[DEADLINE] > 0 and record[DEADLINE] <= now then
    wake(P, id, key, record, 'expired')
    return
  end
  record[WAIT_EVENT], record[WAIT_EVENT_TYPE], record[WAIT_DATA] = event, kind, data
  wake(P, id, key, record, 'event')
  return true
end
