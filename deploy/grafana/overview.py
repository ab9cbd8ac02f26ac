"""Is catchall well, and if not, what is wrong with it?"""

from panels import CPU, REQUESTS, board, lanes, lines, number, quantiles

V1 = '$S, http_route=~"/v1/.*", http_route!~"/v1/(stats/live|events/tail)"'
SINGLE = (
    '$S, http_route=~"/v1/events/.*", http_request_method="PUT", http_response_status_code=~"2.."'
)
# Recorded by deploy/prometheus/rules.
FAILED = 'job:catchall_requests_failed:ratio_rate1h{job=~"$job"}'
SLOW = 'job:catchall_events_slow:ratio_rate1h{job=~"$job"}'
FAILED_SHARE = (
    f'(sum(rate({REQUESTS}_count{{{V1}, http_response_status_code=~"5..|499"}}[$R])) or vector(0))'
    f" / sum(rate({REQUESTS}_count{{{V1}}}[$R]))"
)
ALERT = 'ALERTS{alertname=~"Catchall.*", job=~"$job|", alertstate="%s"}'
FIRING, PENDING = ALERT % "firing", ALERT % "pending"
FILLED = "max by (instance) (catchall_queue_depth{$S} / catchall_queue_capacity{$S})"


def overview():
    return board(
        "catchall-overview",
        "catchall: overview",
        "Is catchall well? The numbers on top are green when it is. Then: what is asked of it, what "
        "becomes of the events, whether all are accounted for, and what it is short of.",
        {
            "Golden signals": [
                number(
                    "Servers down",
                    "Servers that Prometheus knows and does not reach.",
                    "none",
                    "count(up{$S} == 0) or vector(0)",
                    [(1, "red")],
                ),
                number(
                    "Requests",
                    "Requests to /v1 answered per second, by all servers. Probes and scrapes are left out.",
                    "reqps",
                    f"sum(rate({REQUESTS}_count{{{V1}}}[$R]))",
                ),
                number(
                    "Failed",
                    "The share of requests to /v1 answered 5xx, or left by their clients (499). Zero on a healthy server; 503 means that "
                    "the store or the queue could not take more. The objective is 0.1 % over a month.",
                    "percentunit",
                    FAILED_SHARE,
                    [(0.001, "orange"), (0.01, "red")],
                ),
                number(
                    "Single events, p99",
                    "99 of 100 single events that count are answered within this time. The answer waits "
                    "until the event is durable, so a slow disk or database shows here first. The "
                    "objective is 100 ms.",
                    "s",
                    quantiles(REQUESTS, SINGLE)["p99"],
                    [(0.1, "orange"), (0.5, "red")],
                ),
                number(
                    "Refused for overload",
                    "Events per second that would have had to wait for too long, or found the queue full: "
                    "answered 503 with Retry-After. More is sent than the store takes.",
                    "eps",
                    'sum(rate(catchall_store_events_total{$S, outcome="overloaded"}[$R]))',
                    [(0.001, "red")],
                ),
                number(
                    "Events unaccounted for",
                    "What came in, less what was settled, is on its way or waits in a spool: the least of "
                    "two minutes, for under load a group may end while the numbers are read.",
                    "short",
                    "max(min_over_time(abs(instance:catchall_ledger_imbalance:events{$S})[2m:]))",
                    [(1, "red")],
                ),
                lines(
                    "Requests by route",
                    "Answered per second. A route is the template of the path, never a domain; "
                    "`unmatched` is what no route is served at.",
                    "reqps",
                    {
                        "{{http_request_method}} {{http_route}}": "sum by (http_request_method, http_route) "
                        f"(rate({REQUESTS}_count{{$S}}[$R]))"
                    },
                ),
                lines(
                    "Requests not answered well",
                    "Answers of /v1 other than 2xx per second. 4xx: refused, for what the client sent. 503: "
                    "the store or a queue could not take it. 500: a fault of catchall, see the log.",
                    "reqps",
                    {
                        "{{http_response_status_code}}": "sum by (http_response_status_code) "
                        f'(rate({REQUESTS}_count{{{V1}, http_response_status_code!~"2.."}}[$R]))'
                    },
                ),
                lines(
                    "Latency of single events",
                    "PUT /v1/events/… that was counted: from the head of a request to its answer, the wait "
                    "for its group and the commit included. The line is the objective for p99.",
                    "s",
                    quantiles(REQUESTS, SINGLE),
                    [(0.1, "red")],
                    log=True,
                    least=None,
                ),
                lines(
                    "Latency of reads, p99",
                    "By route: one domain is read from memory, Redis or the database; lists and totals "
                    "always ask the store.",
                    "s",
                    {
                        "{{http_route}}": "histogram_quantile(0.99, sum by (le, http_route) (rate("
                        f'{REQUESTS}_bucket{{$S, http_route=~"/v1/(domain.*|stats)"}}[$R])))'
                    },
                    log=True,
                    least=None,
                ),
            ],
            "Events and verdicts": [
                lines(
                    "Events by kind",
                    "Events that came in per second, alone or in bulk.",
                    "eps",
                    {"{{kind}}": "sum by (kind) (rate(catchall_events_received_total{$S}[$R]))"},
                ),
                lines(
                    "What clients were told",
                    "Events per second. counted, duplicate: settled. spooled: 202, to be counted later. "
                    "refused: 4xx. failed: 5xx, or the client left; it may have been counted.",
                    "eps",
                    {"{{outcome}}": "sum by (outcome) (rate(catchall_events_total{$S}[$R]))"},
                ),
                lines(
                    "Domains by verdict",
                    "All domains that were ever seen. Servers on one database tell the same, so this is "
                    "the largest number that one of them tells.",
                    "short",
                    {"{{verdict}}": "max by (verdict) (catchall_domains{$S})"},
                    log=True,
                    least=None,
                ),
                lines(
                    "Verdict changes",
                    "Domains per second whose verdict changed, by the new one. The first bounce is final; "
                    "enough deliveries without one make a catch-all.",
                    "ops",
                    {"{{to}}": "sum by (to) (rate(catchall_verdict_changes_total{$S}[$R]))"},
                ),
            ],
            "Ledger and objectives": [
                lines(
                    "What became of the events",
                    "Events per second, by what the store said of them. overloaded: refused by a full queue. "
                    "unknown: it gave no clear answer. mismatch, expired: the key is wrong.",
                    "eps",
                    {
                        "{{outcome}}": "sum by (outcome) (rate(catchall_store_events_total{$S}[$R]))",
                        "rejected before": "sum(rate(catchall_events_rejected_total{$S}[$R]))",
                    },
                ),
                lines(
                    "Events on their way",
                    "in flight: queued or being recorded. spooled: acknowledged, and waiting for PostgreSQL. "
                    "They are the part of the ledger that is not settled yet.",
                    "short",
                    {
                        "in flight": "sum(catchall_events_in_flight{$S})",
                        "spooled": "sum(catchall_spool_events{$S})",
                    },
                ),
                lines(
                    "Events unaccounted for, by server",
                    "The ledger of each server, and that of its spool. More than what comes in within 10 ms, "
                    "for ten minutes, raises CatchallLedgerImbalance.",
                    "short",
                    {
                        "{{instance}}": "instance:catchall_ledger_imbalance:events{$S}",
                        "{{instance}} spool": "instance:catchall_spool_imbalance:events{$S}",
                    },
                    least=None,
                ),
                lines(
                    "Error budgets, burn rate",
                    "How many times faster than allowed the error budget of a month is used up, over the last "
                    "hour. At 1 it lasts exactly a month; at 14.4 somebody is paged.",
                    "short",
                    {
                        "failed requests": f"{FAILED} / 0.001",
                        "slow events": f"{SLOW} / 0.01",
                    },
                    [(1, "orange"), (14.4, "red")],
                ),
            ],
            "Saturation": [
                lines(
                    "Queues filled",
                    "The fullest queue of each server. A group takes all that waits, so it is seldom full."
                    " Who would wait for too long is refused before.",
                    "percentunit",
                    {"{{instance}}": FILLED},
                    [(0.8, "red")],
                ),
                lines(
                    "Committers busy",
                    "The share of its time that a committer spends recording groups. Near 100 % the store "
                    "takes no more, and the queue grows.",
                    "percentunit",
                    {
                        "{{instance}} {{committer}}": "sum by (instance, committer) "
                        "(rate(catchall_committer_busy_seconds_total{$S}[$R]))"
                    },
                    [(0.9, "orange")],
                ),
                lines(
                    "CPU",
                    "Cores that each server keeps busy.",
                    "none",
                    {"{{instance}}": CPU},
                    width=8,
                ),
                lines(
                    "Memory",
                    "Resident memory. The embedded store keeps all tallies in memory, so it grows with the "
                    "number of domains.",
                    "bytes",
                    {"{{instance}}": "process_resident_memory_bytes{$S}"},
                    width=8,
                ),
                lines(
                    "Workers late to a timer, p99",
                    "How late the loop of an HTTP worker comes round to a timer. Up to 2 ms is the timer's "
                    "own grain; much more, and the worker is overloaded or has no CPU.",
                    "s",
                    {
                        "{{instance}}": "histogram_quantile(0.99, sum by (instance, le) "
                        "(rate(catchall_http_worker_lag_seconds_bucket{$S}[$R])))"
                    },
                    [(0.05, "orange")],
                    width=8,
                    log=True,
                    least=None,
                ),
                lines(
                    "Connections",
                    "Open connections, as a share of `http.max_connections`. At 100 % nobody is let in.",
                    "percentunit",
                    {
                        "{{instance}}": "catchall_http_connections{$S} "
                        "/ catchall_http_connections_limit{$S}"
                    },
                    [(0.8, "red")],
                    width=8,
                ),
                lines(
                    "Bodies in memory",
                    "What the bodies of requests hold, as a share of `http.max_bodies_bytes`. Beyond it bulk "
                    "requests are answered 503.",
                    "percentunit",
                    {
                        "{{instance}}": "catchall_http_bodies_bytes{$S} "
                        "/ catchall_http_bodies_limit_bytes{$S}"
                    },
                    [(0.8, "red")],
                    width=8,
                ),
                lines(
                    "Open files",
                    "Files and connections, as a share of how many may be open.",
                    "percentunit",
                    {"{{instance}}": "process_open_fds{$S} / process_max_fds{$S}"},
                    [(0.8, "red")],
                    width=8,
                ),
                lines(
                    "Streams",
                    "Open streams of the page and the tail, and how many each server may have; one more is "
                    "answered 503. dropped: readers of the tail per second that were let go, for they read too "
                    "slowly.",
                    "short",
                    {
                        "{{instance}} open": "catchall_http_streams{$S}",
                        "limit": "min(catchall_http_streams_limit{$S})",
                        "{{instance}} dropped": "rate(catchall_tail_dropped_total{$S}[$R])",
                    },
                    width=24,
                ),
            ],
            "Servers": [
                lanes(
                    "Alerts",
                    "A lane for each alert of catchall that is pending, for it may still pass, or firing. Each "
                    "has its section in docs/operations.md.",
                    {"{{alertname}}": f"max by (alertname) (2 * {FIRING} or {PENDING})"},
                    {1: ("pending", "orange"), 2: ("firing", "red")},
                ),
                lines(
                    "Up since",
                    "How long each server has been running. Short, and again and again: it is being "
                    "restarted, and the log says why.",
                    "s",
                    {"{{instance}}": "time() - process_start_time_seconds{$S}"},
                ),
                lines(
                    "Versions",
                    "How many servers run each version. Two are seen while a new one is rolled out.",
                    "none",
                    {"{{version}}": "count by (version) (catchall_build_info{$S})"},
                ),
            ],
        },
    )
