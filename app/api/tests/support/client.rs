//! HTTP/1.1 by hand: it sends any bytes, and reads answers one by one.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::DEADLINE;

pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = timeout(DEADLINE, TcpStream::connect(address))
            .await
            .unwrap()
            .unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(DEADLINE, self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap()
            .unwrap();
    }

    pub async fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
        let fields: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        self.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"
        ))
        .await;
        self.answer(method == "HEAD").await
    }

    /// A POST of this content.
    pub async fn post(
        &mut self,
        target: &str,
        fields: &[(&str, &str)],
        content: impl AsRef<[u8]>,
    ) -> Response {
        let length = content.as_ref().len().to_string();
        let fields: String = [("Content-Length", length.as_str())]
            .iter()
            .chain(fields)
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
        self.send([head.as_bytes(), content.as_ref()].concat())
            .await;
        self.answer(false).await
    }

    /// The next answer. That to a HEAD has no body, whatever its head says.
    pub async fn answer(&mut self, to_head: bool) -> Response {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(
                self.read_more().await,
                "closed before an answer: {:?}",
                self.text()
            );
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let fields = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut response = Response {
            status,
            fields,
            body: Vec::new(),
        };
        let length = response
            .field("content-length")
            .map_or(0, |text| text.parse().unwrap());
        if !to_head {
            while self.read.len() < length {
                assert!(self.read_more().await, "closed within an answer");
            }
            response.body = self.read.drain(..length).collect();
        }
        response
    }

    /// Waits until the server closes, and gives what it still sent.
    pub async fn closed(&mut self) -> String {
        while self.read_more().await {}
        self.text()
    }

    /// Hangs up at once, so that the server sees a broken connection and not the end of what is
    /// sent.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// False at the end.
    async fn read_more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = timeout(DEADLINE, self.stream.read(&mut buffer))
            .await
            .unwrap();
        // A connection that is reset is closed too.
        let length = read.unwrap_or(0);
        self.read.extend_from_slice(&buffer[..length]);
        length > 0
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.0 == name)
            .map(|field| field.1.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        let media_type = self.field("content-type").unwrap();
        assert!(
            media_type.ends_with("json"),
            "{media_type}: {}",
            self.text()
        );
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks that this is a whole problem document, and gives it.
    #[track_caller]
    pub fn problem(&self, status: u16, slug: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.field("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["type"], format!("urn:catchall:problem:{slug}"));
        assert_eq!(document["status"], status);
        assert!(document["title"].is_string() && document["detail"].is_string());
        let id = self.field("x-request-id").unwrap();
        assert_eq!(document["instance"], format!("urn:catchall:request:{id}"));
        let retry_after = self.field("retry-after");
        assert_eq!(retry_after, (status == 503).then_some("1"));
        document
    }
}
