-- Questions that SQLite, DuckDB and ClickHouse answer alike. A question is a line; others begin with a dash.
-- What they have in common: integers of 64 bits, lower, count, sum, min, max, CASE, and NULLS LAST.
SELECT host, op, count(*) AS calls, count(error) AS failed FROM calls GROUP BY host, op ORDER BY host, op
SELECT host, seq, time_ns, op, abi, ret, error, duration_ns, bytes, pid, tid, ppid, lower(comm) AS name, exe, uid, gid FROM calls ORDER BY host NULLS LAST, run_id NULLS LAST, seq
SELECT host, seq, ipc_ns, ipc_ns_gen, object_kind, object_id, object_key, object_name, object_ipc_ns, args, args_from FROM calls ORDER BY host NULLS LAST, run_id NULLS LAST, seq
SELECT host, date, min(time_ns) AS first_ns, max(time_ns) AS last_ns, sum(duration_ns) AS waited_ns FROM calls GROUP BY host, date ORDER BY host, date
SELECT host, container, sum(CASE WHEN is_foreign THEN 1 ELSE 0 END) AS foreign_calls, sum(CASE WHEN is_host_ns THEN 1 ELSE 0 END) AS on_host, sum(CASE WHEN made THEN 1 ELSE 0 END) AS made_calls FROM calls GROUP BY host, container ORDER BY host, container NULLS LAST
SELECT host, finding, class, severity, confidence, title, first_ns, last_ns, count, pid, comm, declared_by, events, reasons FROM findings ORDER BY host, run_id NULLS LAST, finding
SELECT host, ipc_ns, ipc_ns_gen, object_kind, object_id, object_key, object_name, mode, size, uses, creator_pid, last_used_ns FROM objects ORDER BY host, run_id NULLS LAST, ipc_ns, ipc_ns_gen, object_kind, object_id NULLS LAST, object_name NULLS LAST, last_used_ns NULLS LAST, creator_pid NULLS LAST
SELECT namespaces.host, namespaces.ipc_ns, namespaces.calls, namespaces.failed, namespaces.processes, namespaces.containers, namespaces.sharing, max(processes.calls) AS most FROM namespaces JOIN processes ON processes.host = namespaces.host AND processes.ipc_ns = namespaces.ipc_ns AND processes.ipc_ns_gen = namespaces.ipc_ns_gen GROUP BY namespaces.host, namespaces.ipc_ns, namespaces.calls, namespaces.failed, namespaces.processes, namespaces.containers, namespaces.sharing ORDER BY namespaces.host, namespaces.ipc_ns, namespaces.calls
SELECT host, kernel, arch, version, is_counts, first_ns, last_ns, blocks, inputs, calls, is_closed, damaged FROM files ORDER BY host, first_ns NULLS LAST
SELECT what, ipc_ns, op, error, sum(count) AS lost FROM losses GROUP BY what, ipc_ns, op, error ORDER BY what, ipc_ns NULLS LAST, op NULLS LAST, error NULLS LAST
SELECT count(*) AS containers FROM containers
SELECT host, time_ns, ipc_ns, op, error, sum(calls) AS calls, sum(bytes) AS bytes FROM counts GROUP BY host, time_ns, ipc_ns, op, error ORDER BY host, time_ns, ipc_ns, op, error NULLS LAST
