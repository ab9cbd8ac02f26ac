//! The requests, and what must come back.

use self::Expect::{Allow, Bare, Problem};

/// What the server is set to: `http.max_body_bytes`.
pub(super) const MAX_BODY: usize = 65_536;

/// What must come back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    /// A problem document with this status and type.
    Problem(u16, &'static str),
    /// 405, and the methods that are allowed.
    Allow(&'static str),
    /// This status alone, and the end of the connection: what was sent is no request.
    Bare(u16),
}

/// What is sent, and what must come back.
pub(super) type Case = (Vec<u8>, Expect);

const BAD_DOMAIN: Expect = Problem(400, "invalid-domain");
const BAD_QUERY: Expect = Problem(400, "invalid-query");
const NOT_FOUND: Expect = Problem(404, "not-found");
const READ_TIMEOUT: Expect = Problem(408, "read-timeout");
const TOO_LONG: Expect = Problem(414, "path-too-long");
const TOO_LARGE: Expect = Problem(413, "content-too-large");
const CONTENT: Expect = Problem(415, "content-not-supported");
const HEAD_TOO_LARGE: Expect = Problem(431, "head-too-large");

/// Stands for `{domain}` in all four routes that have one.
fn bad_domains() -> Vec<String> {
    let label = "a".repeat(63);
    let too_long = [
        format!("{label}a.example"),
        format!("{label}.{label}.{label}.{label}"),
        format!("{}a", "a.".repeat(127)),
        "%C3%BC".repeat(64) + ".example",
    ];
    let addresses = [
        "1.2.3.4",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "%EF%BC%91.%EF%BC%92.%EF%BC%93.%EF%BC%94",
        "1%E3%80%822%E3%80%823%E3%80%824",
        "[::1]",
        "::1",
        "2001:db8::1",
        "[127.0.0.1]",
        "[IPv6:2001:db8::1]",
    ];
    let malformed = [
        ".",
        "..",
        "%2e",
        ".example",
        "a..example",
        "a.example..",
        "%E3%80%82%E3%80%82",
        "-a.example",
        "a-.example",
        "a.-example",
        "a%20b.example",
        "a+b.example",
        "%20",
        "a_b.example",
        "user@a.example",
        "a.example:25",
        "a%2Fb.example",
        "%2e%2e%2fetc%2fpasswd",
        "a%5Cb.example",
        "a%00.example",
        "a%0d%0aX:%20y.example",
        "a%7f.example",
        "%2561.example",
        "%252e",
        "%",
        "%zz.example",
        "%ff%fe.example",
        "%c0%af.example",
        "%ed%a0%80.example",
        "%EF%BF%BD.example",
        "%E2%80%AEa.example",
        "%C2%AD",
        "xn--.example",
        "xn--a.example",
        "xn--zzzzzzzzzzzz99999.example",
        "{domain}",
        "*",
        "'or'1'='1",
        "a.example;--",
        "a;x=y.example",
        "$(id).example",
    ];
    let known = addresses.iter().chain(&malformed).map(ToString::to_string);
    too_long.into_iter().chain(known).collect()
}

pub(super) fn domains() -> Vec<Case> {
    let routes = |domain: &String| {
        [
            format!("PUT /v1/events/{domain}/delivered"),
            format!("PUT /v1/events/{domain}/bounced"),
            format!("GET /v1/domain/{domain}"),
            format!("GET /v1/domains/{domain}"),
        ]
    };
    let lines = bad_domains().iter().flat_map(routes).collect::<Vec<_>>();
    lines
        .iter()
        .map(|line| (request(line), BAD_DOMAIN))
        .collect()
}

/// A request without content.
fn request(line: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes()
}

pub(super) fn paths() -> Vec<Case> {
    let long = |length: usize| "a".repeat(length);
    let mut cases: Vec<_> = [
        "/v1",
        "/v1/",
        "/v2/stats",
        "//v1/stats",
        "/V1/STATS",
        "/v1/stats/",
        "/v1/../v1/stats",
        "/v1%2Fstats",
        "/v1/domain",
        "/v1/domain/",
        "/v1/domains/a.example/more",
        "/v1/events/a.example",
        "/v1/events/a.example/",
        "/v1/events//delivered",
        "/v1/events/a.example/opened",
        "/v1/events/a.example/Delivered",
        "/v1/events/a.example/delivered/",
        "/v1/events/a.example/delivered%00",
        "/v1/events/a.example%2Fdelivered",
        "/v1/events/a/b.example/delivered",
        "/v1/events/a.example?/delivered",
        "/v1/events/a.example#/delivered",
        "/etc/passwd",
        "/.env",
    ]
    .iter()
    .flat_map(|path| [format!("PUT {path}"), format!("GET {path}")])
    .map(|line| (request(&line), NOT_FOUND))
    .collect();
    cases.extend([
        (request("OPTIONS *"), NOT_FOUND),
        (request("CONNECT a.example:25"), NOT_FOUND),
        (
            request(&format!(
                "GET /v1/domain/{}",
                long(2_049 - "/v1/domain/".len())
            )),
            TOO_LONG,
        ),
        (
            request(&format!("PUT /v1/events/{}/delivered", long(3_000))),
            TOO_LONG,
        ),
        (request(&format!("GET /{}", long(60_000))), TOO_LONG),
        (
            request(&format!("GET /v1/stats?{}", long(20_000))),
            HEAD_TOO_LARGE,
        ),
        // Longer than any URI the parser knows, or than it reads.
        (request(&format!("GET /{}", long(70_000))), Bare(400)),
        (request(&format!("GET /{}", long(200_000))), Bare(431)),
    ]);
    cases
}

pub(super) fn methods() -> Vec<Case> {
    let mut cases = Vec::new();
    for path in [
        "/v1/events/a.example/delivered",
        "/v1/events/a.example/bounced",
    ] {
        for method in [
            "GET", "HEAD", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "put",
        ] {
            cases.push((request(&format!("{method} {path}")), Allow("PUT")));
        }
    }
    for method in [
        "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post",
    ] {
        cases.push((request(&format!("{method} /v1/events")), Allow("POST")));
    }
    for path in [
        "/v1/domain/a.example",
        "/v1/domains/a.example",
        "/v1/domains",
        "/v1/stats",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/",
    ] {
        for method in [
            "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND",
        ] {
            cases.push((request(&format!("{method} {path}")), Allow("GET, HEAD")));
        }
    }
    cases
}

pub(super) fn queries() -> Vec<Case> {
    let queries = [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=ten",
        "limit=",
        "limit=1.5",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "verdict=",
        "verdict=maybe",
        "verdict=CATCH-ALL",
        "verdict=not%20catch-all",
        "verdict=%ff",
        "cursor=!!",
        "cursor=",
        "cursor=AAAA",
        "cursor=AAAA====",
        "cursor=Li4vLi4vZXRjL3Bhc3N3ZA",
        "cursor=ZDAuZXhhbXBsZQ&cursor=ZDAuZXhhbXBsZQ",
        "offset=1",
        "limit",
        "%00=1",
    ];
    let query = |query: &&str| (request(&format!("GET /v1/domains?{query}")), BAD_QUERY);
    queries.iter().map(query).collect()
}

/// A PUT that would count, but for these fields and what follows them.
fn put(rest: &str) -> Vec<u8> {
    format!("PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\n{rest}").into_bytes()
}

pub(super) fn contents() -> Vec<Case> {
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let smuggled = String::from_utf8(put("\r\n")).unwrap();
    [
        ("Content-Length: 2\r\n\r\n{}".to_owned(), CONTENT),
        (
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".into(),
            CONTENT,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".into(),
            CONTENT,
        ),
        // Another request in the content is content.
        (
            format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len()),
            CONTENT,
        ),
        (
            format!("Content-Length: {}\r\n\r\n", MAX_BODY + 1),
            TOO_LARGE,
        ),
        (
            "Content-Length: 18446744073709551615\r\n\r\n".into(),
            TOO_LARGE,
        ),
        (
            format!(
                "Transfer-Encoding: chunked\r\n\r\n{}1\r\nx",
                chunk.repeat(4)
            ),
            TOO_LARGE,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n".into(),
            Problem(400, "invalid-content"),
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".into(),
            Problem(400, "invalid-content"),
        ),
        // How long it is, nobody can say.
        ("Content-Length: x\r\n\r\n".into(), Bare(400)),
        ("Content-Length: -1\r\n\r\n".into(), Bare(400)),
        ("Content-Length: +0\r\n\r\n".into(), Bare(400)),
        ("Content-Length: 0, 0\r\n\r\n".into(), Bare(400)),
        (
            "Content-Length: 0\r\nContent-Length: 1\r\n\r\n".into(),
            Bare(400),
        ),
        (
            "Content-Length: 99999999999999999999\r\n\r\n".into(),
            Bare(400),
        ),
        (
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            Bare(400),
        ),
        ("Transfer-Encoding: gzip\r\n\r\n".into(), Bare(400)),
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(),
            Bare(400),
        ),
        ("Transfer-Encoding: identity\r\n\r\n".into(), Bare(400)),
        (
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into(),
            Bare(400),
        ),
    ]
    .map(|(rest, expect)| (put(&rest), expect))
    .into()
}

pub(super) fn heads() -> Vec<Case> {
    let field = |length: usize| put(&format!("X: {}\r\n\r\n", "x".repeat(length)));
    let many: String = (0..200).map(|n| format!("X-{n}: y\r\n")).collect();
    let mut cases = vec![
        (field(20_000), HEAD_TOO_LARGE),
        (field(200_000), Bare(431)),
        (put(&format!("{many}\r\n")), Bare(431)),
    ];
    let malformed: &[&[u8]] = &[
        b"\0\0\0\0\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET  /livez HTTP/1.1\r\nHost: test\r\n\r\n",
        b"G@T /livez HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /livez HTTP/1.2\r\nHost: test\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nHost: test\r\n\r\n",
        b"GET /livez HTTQ/1.1\r\nHost: test\r\n\r\n",
        // As in HTTP/0.9, which had no heads.
        b"GET /livez\r\n",
        b"GET /livez\r\n\r\n",
        b"PUT /v1/events/a.example/delivered\r\n\r\n",
        // The preface of HTTP/2, TLS, and Redis's protocol.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        // What stands raw where only escapes may.
        b"PUT /v1/events/a b.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PUT /v1/events/a\tb.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PUT /v1/events/a\0b.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PUT /v1/events/\xff\xfe.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PUT /v1/events/b\xc3\xbccher.example/delivered HTTP/1.1\r\nHost: test\r\n\r\n",
        // Fields.
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\nno colon\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost : test\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\n: x\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
        b"PUT /v1/events/a.example/delivered HTTP/1.1\r\nHost: test\r\nX\xff: y\r\n\r\n",
    ];
    cases.extend(malformed.iter().map(|bytes| (bytes.to_vec(), Bare(400))));
    cases
}

/// What stops in the middle.
pub(super) fn halves() -> Vec<Case> {
    [
        (Vec::new(), Bare(408)),
        (b"P".to_vec(), Bare(408)),
        (b"PUT /v1/events/a.exam".to_vec(), Bare(408)),
        (put(""), Bare(408)),
        (put("Content-Length: 0\r\n"), Bare(408)),
        (put("Content-Length: 5\r\n\r\n"), READ_TIMEOUT),
        (put("Content-Length: 5\r\n\r\nhalf"), READ_TIMEOUT),
        (put("Transfer-Encoding: chunked\r\n\r\n"), READ_TIMEOUT),
        (
            put("Transfer-Encoding: chunked\r\n\r\n5\r\nhalf"),
            READ_TIMEOUT,
        ),
    ]
    .into()
}
