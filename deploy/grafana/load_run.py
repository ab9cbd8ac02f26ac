"""What a generator sees of a run, beside what the servers say of it."""

from panels import CPU, REQUESTS, board, lines, number, quantiles

EVENTS = '$S, http_route=~"/v1/events.*"'


def load_run():
    return board(
        "catchall-load",
        "catchall: load run",
        "What `create-events --metrics-addr` sends and is told, on the left, and what the servers say of the "
        "same moment, on the right. Where the two differ, look between them.",
        {
            "The run": [
                number(
                    "Sent",
                    "Events per second that were drawn to be sent.",
                    "eps",
                    "sum(rate(create_events_created_total{$G}[$R]))",
                ),
                number(
                    "Acknowledged",
                    "Events per second that the servers acknowledged.",
                    "eps",
                    'sum(rate(create_events_events_total{$G, outcome="acknowledged"}[$R]))',
                ),
                number(
                    "Asked for",
                    "The rate given with --rate; 0 is as many as go.",
                    "eps",
                    "sum(create_events_target_rate{$G})",
                ),
                number(
                    "Not acknowledged",
                    "The share of events that were refused or failed in the end, retries included.",
                    "percentunit",
                    'sum(rate(create_events_events_total{$G, outcome!="acknowledged"}[$R])) '
                    "/ sum(rate(create_events_events_total{$G}[$R]))",
                    [(0.001, "orange"), (0.01, "red")],
                ),
                number(
                    "Latency, p99",
                    "As the generator sees it. With --rate it counts from when an event was due.",
                    "s",
                    quantiles("create_events_request_duration_seconds", "$G")["p99"],
                    [(0.1, "orange"), (0.5, "red")],
                ),
                number(
                    "Generator's CPU",
                    "Cores that the generator keeps busy. If they are all there are, it is the bottleneck.",
                    "none",
                    "sum(rate(process_cpu_seconds_total{$G}[$R]))",
                ),
            ],
            "Generator and servers, side by side": [
                lines(
                    "Generator: events",
                    "Events per second, drawn from the stream and come to their end.",
                    "eps",
                    {
                        "sent, {{kind}}": "sum by (kind) (rate(create_events_created_total{$G}[$R]))",
                        "{{outcome}}": "sum by (outcome) (rate(create_events_events_total{$G}[$R]))",
                    },
                ),
                lines(
                    "Servers: events",
                    "Events per second, come in and settled, as the store says.",
                    "eps",
                    {
                        "received, {{kind}}": "sum by (kind) "
                        "(rate(catchall_events_received_total{$S}[$R]))",
                        "{{outcome}}": "sum by (outcome) "
                        "(rate(catchall_store_events_total{$S}[$R]))",
                    },
                ),
                lines(
                    "Generator: latency of requests",
                    "From sending to the answer, the network and the generator's own waits included.",
                    "s",
                    quantiles("create_events_request_duration_seconds", "$G"),
                    log=True,
                    least=None,
                ),
                lines(
                    "Servers: latency of requests with events",
                    "From the head of a request to its answer.",
                    "s",
                    quantiles(REQUESTS, EVENTS),
                    log=True,
                    least=None,
                ),
                lines(
                    "Generator: answers",
                    "Requests per second by the status they were answered with, each attempt; `none`: no answer.",
                    "reqps",
                    {
                        "{{status}}": "sum by (status) (rate(create_events_requests_total{$G}[$R]))",
                        "retries": "sum(rate(create_events_retries_total{$G}[$R]))",
                    },
                ),
                lines(
                    "Servers: answers",
                    "Requests with events per second, by the status they were answered with.",
                    "reqps",
                    {
                        "{{http_response_status_code}}": "sum by (http_response_status_code) "
                        f"(rate({REQUESTS}_count{{{EVENTS}}}[$R]))"
                    },
                ),
                lines(
                    "Generator: requests in flight",
                    "Requests that wait for their answer.",
                    "short",
                    {"{{instance}}": "create_events_requests_in_flight{$G}"},
                ),
                lines(
                    "Servers: in flight",
                    "requests: being answered, the scrape included. events: queued or being recorded.",
                    "short",
                    {
                        "requests": "sum(http_server_active_requests{$S})",
                        "events": "sum(catchall_events_in_flight{$S})",
                    },
                ),
                lines(
                    "Generator: CPU",
                    "Cores that it keeps busy. It is counted in whole seconds, so a light load shows as steps.",
                    "none",
                    {"{{instance}}": "rate(process_cpu_seconds_total{$G}[$R])"},
                ),
                lines(
                    "Servers: CPU",
                    "Cores that each server keeps busy.",
                    "none",
                    {"{{instance}}": CPU},
                ),
            ],
        },
        generators=True,
    )
