# Reads `perf script --fields comm,ip,sym`: a line with the thread's name, then the stack from the
# inside out, then a blank line. Each sample counts for the first row whose pattern its stack has.
function row(thread, name, pattern) { rows++; threads[rows] = thread; names[rows] = name; patterns[rows] = pattern }
BEGIN {
    row("committer", "make it durable: `fdatasync`", "fdatasync|do_fsync")
    row("committer", "write the record to the file", "pwrite64|ksys_write|vfs_write")
    row("committer", "wake the threads that serve", "eventfd_write|Waker.*wake|answer_all")
    row("committer", "fold the group: sort by domain, add up", "group::fold")
    row("committer", "encode the record, checksum", "encode|crc32c")
    row("committer", "apply it to the map", "TallyMap|tally_map")
    row("committer", "sleep and be woken", "__schedule|epoll_wait|futex|sched_yield")
    row("committer", "the rest: forming groups, metrics", ".")
    row("actix", "send the answer, through TCP to the client's socket", "sendto|tcp_sendmsg|__send")
    row("actix", "receive the request", "recvfrom|__libc_recv")
    row("actix", "wait for events, sleep, be woken", "__schedule|epoll_wait")
    row("actix", "wake the committer", "eventfd_write|futex")
    row("actix", "read the body and its events: parse lines, check names", "EventsBody|read_lines|parse_push|request::bulk|middleware::body")
    row("actix", "queue, wait for and take the answer", "Batched|answers::")
    row("actix", "parse the head (actix-http)", "h1::codec|h1::decoder|httparse")
    row("actix", "route (actix-router)", "actix_router|AppRouting")
    row("actix", "our middleware and handler", "api::")
    row("actix", "the rest: actix-web, tokio, memory", ".")
    row("", "other threads", ".")
}
NF == 0 {
    if (comm == "") next
    all++
    for (i = 1; i <= rows; i++)
        if (index(comm, threads[i]) == 1 && stack ~ patterns[i]) { hits[i]++; break }
    comm = stack = ""
    next
}
comm == "" { comm = $1; next }
{ stack = stack " " $0 }
END {
    print "| thread | what | share of the server's CPU |"
    print "| --- | --- | ---: |"
    for (i = 1; i <= rows; i++)
        if (hits[i] / all >= 0.0005)
            printf "| %s | %s | %.1f %% |\n", threads[i] == "actix" ? "serving" : threads[i], names[i], 100 * hits[i] / all
}
