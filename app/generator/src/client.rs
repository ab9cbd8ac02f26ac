//! One keep-alive connection, and requests one after the other on it.
//!
//! The connection is polled by the task that waits for the answer: no task of its own, no spawn
//! for a request, and a client that is dropped has closed its connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::target::Endpoint;

/// draft-ietf-httpapi-idempotency-key-header-07.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Pauses before the attempts to get one request onto a connection. The first may find that the
/// server closed an idle connection, the second connects at once, the others wait for a server
/// that restarts.
const ATTEMPTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// The same, once a server did not come back: each event still looks for it, but a long run ends.
const GONE: [Duration; 1] = [Duration::from_millis(10)];

/// Answers longer than this are not read; the connection is given up.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// No connection could be made: the request was never sent.
    NotConnected,
    /// The connection ended, or broke the protocol, after the request was sent.
    Lost,
    /// The time allowed for the request ran out after it was sent.
    TimedOut,
    /// The answer is 2xx, but does not say that as many events were accepted as were sent.
    Unconfirmed,
}

impl Failure {
    /// As it stands in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "not connected",
            Self::Lost => "connection lost",
            Self::TimedOut => "timed out",
            Self::Unconfirmed => "not confirmed",
        }
    }
}

/// An HTTP answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// One client with one connection at most, made when it is needed.
pub(crate) struct Client {
    endpoint: Arc<Endpoint>,
    put_headers: HeaderMap,
    post_headers: HeaderMap,
    get_headers: HeaderMap,
    deadline: Deadline,
    link: Option<Link>,
    /// Nobody answered the last time: do not wait long for it again.
    unreachable: bool,
}

impl Client {
    /// `timeout` bounds each request from its start to the end of its answer, with every attempt
    /// to connect. Must be called within a runtime.
    pub(crate) fn new(endpoint: Arc<Endpoint>, timeout: Duration) -> Self {
        let mut get_headers = HeaderMap::with_capacity(2);
        get_headers.insert(HOST, endpoint.host_header.clone());
        // Its length is known from its body, its media type comes with it.
        let post_headers = get_headers.clone();
        let mut put_headers = get_headers.clone();
        // RFC 9110, 8.6: to be sent with a method that could have a body.
        put_headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        get_headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Self {
            endpoint,
            put_headers,
            post_headers,
            get_headers,
            deadline: Deadline::new(timeout),
            link: None,
            unreachable: false,
        }
    }

    /// Connects ahead of the first request. Should it fail, the request will try again.
    pub(crate) async fn warm_up(&mut self) {
        self.deadline.restart();
        self.link = Link::connect(&self.endpoint, self.deadline.at).await;
    }

    /// Sends a PUT without a body.
    pub(crate) async fn put(
        &mut self,
        path: PathAndQuery,
        key: Option<HeaderValue>,
    ) -> Result<StatusCode, Failure> {
        let headers = keyed(self.put_headers.clone(), key);
        let request = request(Method::PUT, path, headers, Bytes::new());
        let response = self.exchange(request).await?;
        let status = response.status();
        // The answer is known: trouble with its body costs the connection, not the event.
        self.read_body(response).await.ok();
        Ok(status)
    }

    /// Sends a POST with `body`.
    pub(crate) async fn post(
        &mut self,
        path: PathAndQuery,
        content_type: HeaderValue,
        body: Bytes,
        key: Option<HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut headers = keyed(self.post_headers.clone(), key);
        headers.insert(CONTENT_TYPE, content_type);
        let request = request(Method::POST, path, headers, body);
        let response = self.exchange(request).await?;
        let status = response.status();
        let body = match self.read_body(response).await {
            // A refusal is one whatever it says: trouble with its body costs the connection.
            Err(_) if !status.is_success() => Bytes::new(),
            body => body?,
        };
        Ok(Answer { status, body })
    }

    /// Reads a resource, past every cache.
    pub(crate) async fn get(&mut self, path: PathAndQuery) -> Result<Answer, Failure> {
        let headers = self.get_headers.clone();
        let request = request(Method::GET, path, headers, Bytes::new());
        let response = self.exchange(request).await?;
        Ok(Answer {
            status: response.status(),
            body: self.read_body(response).await?,
        })
    }

    /// Gets the request onto a connection and waits for the head of its answer. Only what was
    /// certainly never sent is sent again.
    async fn exchange(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        self.deadline.restart();
        let attempts = if self.unreachable {
            &GONE[..]
        } else {
            &ATTEMPTS[..]
        };
        for &pause in attempts {
            if !pause.is_zero() {
                timeout_at(self.deadline.at, sleep(pause)).await.ok();
            }
            if self.link.is_none() {
                self.link = Link::connect(&self.endpoint, self.deadline.at).await;
            }
            let Some(mut link) = self.link.take() else {
                continue;
            };
            self.unreachable = false;
            match link.send(request, &mut self.deadline).await {
                Ok(response) => {
                    self.link = Some(link);
                    return Ok(response);
                }
                Err(Unanswered::Unsent(back)) => request = *back,
                Err(Unanswered::Sent(failure)) => return Err(failure),
            }
        }
        self.unreachable = true;
        Err(Failure::NotConnected)
    }

    async fn read_body(&mut self, response: Response<Incoming>) -> Result<Bytes, Failure> {
        let body = response.into_body();
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let Some(mut link) = self.link.take() else {
            return Err(Failure::Lost);
        };
        let whole = Limited::new(body, MAX_ANSWER_BYTES).collect();
        let whole = link.wire.carry(whole, &mut self.deadline).await?;
        let bytes = whole.map_err(|_| Failure::Lost)?.to_bytes();
        self.link = Some(link);
        Ok(bytes)
    }
}

fn keyed(mut headers: HeaderMap, key: Option<HeaderValue>) -> HeaderMap {
    if let Some(key) = key {
        headers.insert(KEY, key);
    }
    headers
}

fn request(
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    request
}

/// A request that got no answer.
enum Unanswered {
    /// It never left, and comes back.
    Unsent(Box<Request<Full<Bytes>>>),
    /// It may have reached the server.
    Sent(Failure),
}

/// An open connection and the means to send on it.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    wire: Wire,
}

impl Link {
    async fn connect(endpoint: &Endpoint, deadline: Instant) -> Option<Self> {
        let connecting = async {
            let stream = TcpStream::connect(endpoint.address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            Some(Self {
                sender,
                wire: Wire(Some(connection)),
            })
        };
        timeout_at(deadline, connecting).await.ok()?
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        deadline: &mut Deadline,
    ) -> Result<Response<Incoming>, Unanswered> {
        if !self.sender.is_ready() {
            let ready = std::future::poll_fn(|cx| self.sender.poll_ready(cx));
            if !matches!(self.wire.carry(ready, deadline).await, Ok(Ok(()))) {
                return Err(Unanswered::Unsent(Box::new(request)));
            }
        }
        let answer = self.sender.try_send_request(request);
        match self.wire.carry(answer, deadline).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(mut error)) => Err(match error.take_message() {
                Some(request) => Unanswered::Unsent(Box::new(request)),
                None => Unanswered::Sent(Failure::Lost),
            }),
            Err(failure) => Err(Unanswered::Sent(failure)),
        }
    }
}

/// The connection itself, which moves only while it is polled; gone once it has ended.
struct Wire(Option<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>);

impl Wire {
    /// Polls the connection until `answer`, which comes over it, is there.
    async fn carry<F: Future>(
        &mut self,
        answer: F,
        deadline: &mut Deadline,
    ) -> Result<F::Output, Failure> {
        let mut answer = pin!(answer);
        std::future::poll_fn(|cx| {
            // The connection goes first: one poll writes the request, one reads the answer.
            if let Some(connection) = &mut self.0
                && Pin::new(connection).poll(cx).is_ready()
            {
                // Dropped, it gives back a request that it had not begun to send.
                self.0 = None;
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            if self.0.is_none() {
                return Poll::Ready(Err(Failure::Lost));
            }
            deadline.poll(cx).map(|()| Err(Failure::TimedOut))
        })
        .await
    }
}

/// The time a request may take. The timer beneath is moved only when it fires, so that a request
/// in time costs no timer of its own.
struct Deadline {
    timeout: Duration,
    at: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            at: Instant::now() + timeout,
            timer: Box::pin(sleep(timeout)),
        }
    }

    fn restart(&mut self) {
        self.at = Instant::now() + self.timeout;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn listen(timeout: Duration) -> (TcpListener, Client) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Endpoint {
            address,
            host_header: HeaderValue::from_str(&address.to_string()).unwrap(),
        };
        (listener, Client::new(Arc::new(endpoint), timeout))
    }

    /// Takes one connection, reads the head of one request and answers it. Hangs up when the stream
    /// is dropped.
    async fn serve_one(listener: &TcpListener, answer: &str) -> (String, TcpStream) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        (String::from_utf8(request).unwrap(), stream)
    }

    const PATH: PathAndQuery = PathAndQuery::from_static("/a");
    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_put_says_all_that_http_asks_for() {
        let (listener, mut client) = listen(LONG).await;
        let (status, (request, _)) = tokio::join!(
            client.put(PATH, None),
            serve_one(&listener, "HTTP/1.1 204 x\r\n\r\n")
        );
        assert_eq!(status, Ok(StatusCode::NO_CONTENT));
        let host = listener.local_addr().unwrap();
        assert_eq!(
            request,
            format!("PUT /a HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n")
        );
    }

    #[tokio::test]
    async fn a_post_says_what_it_carries_and_how_long_it_is() {
        let (listener, mut client) = listen(LONG).await;
        let content_type = HeaderValue::from_static("a/b");
        let serve = async {
            let (head, mut stream) = serve_one(&listener, "").await;
            let mut body = [0; 4];
            stream.read_exact(&mut body).await.unwrap();
            let answer = b"HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            (head, body, stream)
        };
        let (answer, (head, body, _stream)) = tokio::join!(
            client.post(PATH, content_type, Bytes::from_static(b"body"), None),
            serve
        );
        let answer = answer.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"ok"[..]));
        assert_eq!(&body, b"body");
        let host = listener.local_addr().unwrap();
        assert_eq!(
            head,
            format!(
                "POST /a HTTP/1.1\r\nhost: {host}\r\ncontent-type: a/b\r\ncontent-length: 4\r\n\r\n"
            )
        );
    }

    #[tokio::test]
    async fn a_refusal_may_come_before_all_of_a_body_was_taken() {
        let (listener, mut client) = listen(LONG).await;
        let body = Bytes::from(vec![b' '; 8 << 20]);
        let content_type = HeaderValue::from_static("a/b");
        let refusal = "HTTP/1.1 413 x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
        let (answer, (_, unread)) = tokio::join!(
            client.post(PATH, content_type, body.clone(), None),
            serve_one(&listener, refusal)
        );
        assert_eq!(answer.unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
        drop(unread);
        let (status, _) = tokio::join!(
            client.put(PATH, None),
            serve_one(&listener, "HTTP/1.1 204 x\r\n\r\n")
        );
        assert_eq!(status, Ok(StatusCode::NO_CONTENT));
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_replaced() {
        let (listener, mut client) = listen(LONG).await;
        for _ in 0..3 {
            let (status, (_, stream)) = tokio::join!(
                client.put(PATH, None),
                serve_one(&listener, "HTTP/1.1 204 x\r\n\r\n")
            );
            assert_eq!(status, Ok(StatusCode::NO_CONTENT));
            drop(stream);
            client = until_it_can_be_known(client).await;
        }
    }

    /// Waits until the runtime knows that the other side hung up.
    async fn until_it_can_be_known(mut client: Client) -> Client {
        let connection = client.link.take().unwrap().wire.0.unwrap();
        let stream = connection.into_parts().io.into_inner();
        stream.readable().await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        client.link = Some(Link {
            sender,
            wire: Wire(Some(connection)),
        });
        client
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_costs_the_connection_and_not_the_event() {
        let (listener, mut client) = listen(LONG).await;
        let length = MAX_ANSWER_BYTES + 1;
        let body = " ".repeat(length);
        let long = format!("HTTP/1.1 503 x\r\ncontent-length: {length}\r\n\r\n{body}");
        let (status, _) = tokio::join!(client.put(PATH, None), serve_one(&listener, &long));
        assert_eq!(status, Ok(StatusCode::SERVICE_UNAVAILABLE));
        assert!(client.link.is_none());
        let (answer, _) = tokio::join!(client.get(PATH), serve_one(&listener, &long));
        assert_eq!(answer.unwrap_err(), Failure::Lost);
        let post = client.post(PATH, HeaderValue::from_static("a/b"), Bytes::new(), None);
        let (answer, _) = tokio::join!(post, serve_one(&listener, &long));
        assert_eq!(answer.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn no_answer_in_time_is_told_apart_from_a_broken_one() {
        let (listener, mut hasty) = listen(Duration::from_millis(200)).await;
        // The kernel takes the connection; nobody ever answers.
        assert_eq!(hasty.put(PATH, None).await, Err(Failure::TimedOut));
        drop(listener);
        assert_eq!(hasty.put(PATH, None).await, Err(Failure::NotConnected));

        let (listener, mut client) = listen(LONG).await;
        let (status, _) = tokio::join!(
            client.put(PATH, None),
            serve_one(&listener, "nonsense\r\n\r\n")
        );
        assert_eq!(status, Err(Failure::Lost));
    }
}
