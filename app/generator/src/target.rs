//! Where the events go.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::Uri;
use hyper::header::HeaderValue;

/// The server as the user names it: `http://host[:port]`.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    host_header: HeaderValue,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err("only http is spoken".into()),
            None => return Err("a URL such as http://127.0.0.1:7000 is needed".into()),
        }
        let authority = uri.authority().ok_or("a host is needed")?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err("the URL ends after the port".into());
        }
        if authority.as_str().contains('@') {
            return Err("credentials have no use here".into());
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            host_header: HeaderValue::from_str(authority.as_str()).map_err(|e| e.to_string())?,
        })
    }
}

impl Target {
    /// The URL, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.host_header.to_str().unwrap_or_default())
    }

    /// Looks the host up and settles on the first address that takes a connection, so that a run
    /// neither asks the resolver again nor starts against nobody.
    ///
    /// # Errors
    /// The host has no address, or no address takes a connection within `timeout`.
    pub(crate) fn reach(&self, timeout: Duration) -> anyhow::Result<Endpoint> {
        let addresses = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .with_context(|| format!("cannot look up {}", self.host))?;
        let mut last = anyhow!("{} has no address", self.host);
        for address in addresses {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(_) => {
                    return Ok(Endpoint {
                        address,
                        host_header: self.host_header.clone(),
                    });
                }
                Err(error) => {
                    last = anyhow!(error).context(format!("cannot connect to {address}"));
                }
            }
        }
        Err(last)
    }
}

/// A server that was reached once.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) host_header: HeaderValue,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_is_a_host_and_a_port() {
        let target: Target = "http://localhost:7000/".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("localhost", 7000));
        assert_eq!(target.url(), "http://localhost:7000");
        let target: Target = "http://[::1]".parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 80));
    }

    #[test]
    fn anything_else_is_refused() {
        for url in [
            "",
            "127.0.0.1:7000",
            "https://localhost",
            "http://localhost/v1",
            "http://localhost/?a=b",
            "http://me:secret@localhost",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }
}
