#!lua
-- take_requests: count requests of a caller against a rate that all servers share, by GCRA. The key holds the time (us)
-- at which the requests so far are paid off.
-- KEYS  1 the partition's prefix
-- ARGV  1 caller  2 us between two requests  3 us that a burst may run ahead  4 how many to take at most
-- Returns {how many were taken, 0 when the caller has to wait, how long then (us)}.
-- #include clock
local P, caller, interval, window, wanted = KEYS[1], unpack(ARGV)
interval, window = tonumber(interval), tonumber(window)
local paid = math.max(tonumber(redis.call('GET', P .. 'rate:' .. caller) or 0), now_us)
local taken = math.min(tonumber(wanted), math.floor((now_us + window - paid) / interval))
if taken < 1 then return {0, paid + interval - window - now_us} end
paid = paid + taken * interval
redis.call('SET', P .. 'rate:' .. caller, string.format('%.0f', paid), 'PX', math.ceil((paid - now_us) / 1000))
return {taken, 0}
