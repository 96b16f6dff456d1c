-- You want to know what depends on what: which objects are used by more than one container, or across namespaces?
SELECT
  host, object_ipc_ns, object_kind, object_id, object_name,
  count(DISTINCT coalesce(container, '(host)')) AS containers,
  group_concat(DISTINCT coalesce(container, '(host)')) AS who,
  max(is_foreign) AS is_foreign, sum(calls) AS calls
FROM edges
GROUP BY host, run_id, object_ipc_ns, object_ipc_ns_gen, object_kind, object_id, object_name
HAVING containers > 1 OR max(is_foreign)
ORDER BY calls DESC
