"""The fast path: discrete events in virtual time, clients trained in vectorised cohorts.

A client's result depends only on the version it started from, its data and a random key, so its
training may run at any time between its start and its completion. The room's parts, in the order
in which data flow: `config`, `trace`, `windows_file` and `client_task` (what to simulate), `fleet`
(how long tasks take), `availability`, `churn` and `intermittent` (who is there when), `scheduler`
(who does what when), `workload` (data and model), `loop` (events, training and merging), `sweep`
(several seeds, resumed after an interruption).
"""
