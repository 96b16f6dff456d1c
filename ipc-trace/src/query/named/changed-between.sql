-- It worked before: how many calls were there in a minute before and after a time, by namespace, operation and error?
-- param at: the time, as 2026-01-31T23:59:00Z
-- param seconds=60: how long before and after
SELECT
  host, ipc_ns, container, op, error,
  sum(CASE WHEN time_ns < ns(:at) THEN calls ELSE 0 END) AS before,
  sum(CASE WHEN time_ns >= ns(:at) THEN calls ELSE 0 END) AS after
FROM counts
WHERE time_ns >= ns(:at) - :seconds * 1000000000 AND time_ns < ns(:at) + :seconds * 1000000000
GROUP BY host, ipc_ns, ipc_ns_gen, container, op, error
HAVING before <> after
ORDER BY abs(after - before) DESC
