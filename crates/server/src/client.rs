//! The command line's way to a server: one HTTP/1.1 call after another, over TCP or TLS.
//!
//! A call ends in one of the ways that [`CallError`] names, each with its own exit code. A call has its own
//! connection: commands make few calls, and a batch is large enough for that not to matter. Nothing is tried again
//! behind the caller's back. Proxy variables of the environment are ignored.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use url::Url;

use crate::wire::Problem;

/// Where a server listens unless somebody says otherwise.
pub(crate) const URL_DEFAULT: &str = "http://127.0.0.1:8080";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const BRIEF_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_mins(1);
/// For calls that make the server send a webhook and wait for its end, which may take 300 s.
const PATIENT_TIMEOUT: Duration = Duration::from_secs(310);
/// Largest answer: a page of 1000 events of 150 KiB each.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How a call ends if it does not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no server at that address, or the connection broke.
    #[error("cannot reach {origin}")]
    Unreachable {
        /// Scheme, host and port.
        origin: String,
        /// Whether the call may have been carried out all the same: it was sent, and only its answer is missing.
        was_sent: bool,
        /// Why.
        source: io::Error,
    },
    /// The server said no.
    #[error("{}", .problem.detail)]
    Refused {
        /// Why.
        problem: Box<Problem>,
        /// The answer as it came.
        raw: Bytes,
        /// Where the key came from that it does not take.
        key_source: Option<KeySource>,
    },
    /// Something answered, but not as this server would.
    #[error("{origin} does not answer like a neo-events server: {reason}")]
    Strange {
        /// Scheme, host and port.
        origin: String,
        /// What is odd.
        reason: String,
    },
}

/// Where the server is and who asks.
pub(crate) struct ClientOptions {
    /// `http://…` or `https://…`; a path in it comes before `/v1`.
    pub(crate) url: Url,
    /// Sent as bearer token.
    pub(crate) key: Option<String>,
    /// Sent as `X-Neo-Tenant-ID`.
    pub(crate) tenant: Option<String>,
    /// Further TLS roots, in PEM.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Where the key came from that calls show, or why they show none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// This flag or variable.
    Given(&'static str),
    /// The credentials file.
    File(PathBuf),
    /// Nobody gave one, and the file's is for the server at another URL.
    FileOfAnother {
        /// The file.
        path: PathBuf,
        /// Its server.
        url: String,
    },
    /// Nobody gave one, and there is no such file.
    NoFile(PathBuf),
}

/// As advice to whoever is refused for want of a valid key.
impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(setting) => write!(
                f,
                "The key that was sent came from {setting}: this server does not know it, or it has expired or was revoked."
            ),
            Self::File(path) => write!(
                f,
                "The key that was sent came from {}, where a server left it: the one that answers has another. Give \
                 its key with --key or NEO_EVENTS_KEY.",
                path.display()
            ),
            Self::FileOfAnother { path, url } => write!(
                f,
                "No key was sent: the one in {} is for {url}. Give one with --key or NEO_EVENTS_KEY.",
                path.display()
            ),
            Self::NoFile(path) => write!(
                f,
                "No key was sent: none was given, and there is no {}, where a server leaves the one that it makes. \
                 Give one with --key or NEO_EVENTS_KEY.",
                path.display()
            ),
        }
    }
}

/// What is wrong with [`ClientOptions`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    /// Not a URL to call.
    #[error("the server's URL must be http://HOST[:PORT] or https://HOST[:PORT], without query: {0}")]
    Url(Url),
    /// The key or the tenant cannot stand in a header.
    #[error("the {0} contains characters that cannot be sent")]
    Header(&'static str),
    /// TLS as a whole.
    #[error("TLS cannot be used: {0}")]
    Tls(String),
    /// The further TLS roots.
    #[error("cannot read certificates from {path}: {reason}")]
    CaFile {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Calls a server.
pub(crate) struct Client {
    url: Url,
    key: Option<HeaderValue>,
    tenant: Option<HeaderValue>,
    tls: Option<TlsConnector>,
    key_source: Option<KeySource>,
}

/// A call to make.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    segments: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<(&'static str, Bytes)>,
    timeout: Duration,
}

impl Call {
    /// A call of `/v1/<segments>`; segments are escaped.
    pub(crate) fn new<'a>(method: Method, segments: impl IntoIterator<Item = &'a str>) -> Self {
        let segments = std::iter::once("v1").chain(segments).map(str::to_owned).collect();
        Self { method, segments, query: Vec::new(), body: None, timeout: CALL_TIMEOUT }
    }

    /// GET `/v1/<segments>`.
    pub(crate) fn get<'a>(segments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::GET, segments)
    }

    /// GET `/readyz`.
    pub(crate) fn readiness() -> Self {
        Self { segments: vec!["readyz".to_owned()], ..Self::get([]) }.brief()
    }

    /// POST `/v1/<segments>`.
    pub(crate) fn post<'a>(segments: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::POST, segments)
    }

    /// With a parameter, if it has a value.
    #[must_use]
    pub(crate) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// With JSON text.
    #[must_use]
    pub(crate) fn json(self, text: impl Into<Bytes>) -> Self {
        Self { body: Some(("application/json", text.into())), ..self }
    }

    /// With one JSON text a line.
    #[must_use]
    pub(crate) fn ndjson(self, lines: impl Into<Bytes>) -> Self {
        Self { body: Some(("application/x-ndjson", lines.into())), ..self }
    }

    /// One that has an answer soon or never.
    #[must_use]
    pub(crate) fn brief(self) -> Self {
        Self { timeout: BRIEF_TIMEOUT, ..self }
    }

    /// One that waits for webhooks to be sent.
    #[must_use]
    pub(crate) fn patient(self) -> Self {
        Self { timeout: PATIENT_TIMEOUT, ..self }
    }
}

impl CallError {
    /// Whether the server may have done what it was asked for.
    pub(crate) const fn may_be_done(&self) -> bool {
        match self {
            Self::Unreachable { was_sent, .. } => *was_sent,
            Self::Refused { problem, .. } => problem.status >= 500,
            Self::Strange { .. } => true,
        }
    }
}

impl Client {
    /// Checks the options; does not connect.
    pub(crate) fn new(options: ClientOptions) -> Result<Self, OptionsError> {
        let ClientOptions { url, key, tenant, ca_file } = options;
        let is_callable = url.has_host() && url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !is_callable {
            return Err(OptionsError::Url(url));
        }
        let key = key.map(|key| HeaderValue::try_from(format!("Bearer {key}"))).transpose();
        let tenant = tenant.map(HeaderValue::try_from).transpose();
        // Also where they are not needed: whoever names a file believes that it counts.
        let roots = trusted_roots(ca_file.as_deref())?;
        Ok(Self {
            key: key.map_err(|_| OptionsError::Header("key"))?,
            tenant: tenant.map_err(|_| OptionsError::Header("tenant"))?,
            tls: (url.scheme() == "https").then(|| tls(roots)).transpose()?,
            key_source: None,
            url,
        })
    }

    /// Which can say where its key came from.
    #[must_use]
    pub(crate) fn with_key_from(self, source: KeySource) -> Self {
        Self { key_source: Some(source), ..self }
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Makes a call; answers the body of a 2xx.
    pub(crate) async fn call(&self, call: Call) -> Result<Bytes, CallError> {
        let (status, body) = self.send(call).await?;
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, body)) }
    }

    /// Makes a call; answers status and body, whatever they are.
    pub(crate) async fn send(&self, call: Call) -> Result<(StatusCode, Bytes), CallError> {
        let timeout = call.timeout;
        let request = self.request(call)?;
        let exchange = async {
            match &self.tls {
                None => self.exchange(self.connect().await?, request).await,
                Some(tls) => {
                    let name = self.server_name()?;
                    let stream = tls.connect(name, self.connect().await?).await;
                    self.exchange(stream.map_err(|error| self.unreachable(error, false))?, request).await
                }
            }
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.timed_out("no complete answer", timeout, true)),
        }
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, CallError> {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(&call.segments);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let path = &url[url::Position::BeforePath..];
        let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let mut request = Request::builder()
            .method(call.method)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::USER_AGENT, concat!("neo-events-cli/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("x-neo-tenant-id", tenant);
        }
        let body = match call.body {
            Some((content_type, body)) => {
                request = request.header(header::CONTENT_TYPE, content_type);
                body
            }
            None => Bytes::new(),
        };
        request.body(Full::new(body)).map_err(|error| self.strange(error.to_string()))
    }

    async fn connect(&self) -> Result<TcpStream, CallError> {
        let host = self.url.host_str().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = self.url.port_or_known_default().unwrap_or(80);
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
            Ok(stream) => stream.map_err(|error| self.unreachable(error, false)),
            Err(_) => Err(self.timed_out("no connection", CONNECT_TIMEOUT, false)),
        }
    }

    async fn exchange<S>(
        &self,
        stream: S,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: hyper::Error| self.unreachable(io::Error::other(error), true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.unreachable(io::Error::other(error), true))?.to_bytes();
            Ok((head.status, body))
        };
        let mut exchange = std::pin::pin!(exchange);
        // The connection moves the bytes; when it ends first, what it read is still to be taken.
        tokio::select! {
            answered = exchange.as_mut() => answered,
            _ = connection => exchange.await,
        }
    }

    /// What an answer that is no 2xx says.
    pub(crate) fn refusal(&self, status: StatusCode, raw: Bytes) -> CallError {
        match serde_json::from_slice::<Problem>(&raw) {
            Ok(problem) => {
                let key_source = self.key_source.clone().filter(|_| status == StatusCode::UNAUTHORIZED);
                CallError::Refused { problem: Box::new(problem), raw, key_source }
            }
            Err(_) => self.strange(format!("it answered {status} without saying why")),
        }
    }

    fn server_name(&self) -> Result<ServerName<'static>, CallError> {
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        ServerName::try_from(host.to_owned()).map_err(|error| self.strange(error.to_string()))
    }

    fn unreachable(&self, source: io::Error, was_sent: bool) -> CallError {
        CallError::Unreachable { origin: self.origin(), was_sent, source }
    }

    fn timed_out(&self, what: &str, after: Duration, was_sent: bool) -> CallError {
        let text = format!("{what} within {} s", after.as_secs());
        self.unreachable(io::Error::new(io::ErrorKind::TimedOut, text), was_sent)
    }

    fn strange(&self, reason: String) -> CallError {
        CallError::Strange { origin: self.origin(), reason }
    }
}

/// Roots that everybody trusts, and those of a file, of which there must be some.
pub(crate) fn trusted_roots(ca_file: Option<&Path>) -> Result<RootCertStore, OptionsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let Some(path) = ca_file else { return Ok(roots) };
    let before = roots.len();
    let unreadable = |reason: String| OptionsError::CaFile { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.len() == before { Err(unreadable("it has none in PEM".to_owned())) } else { Ok(roots) }
}

fn tls(roots: RootCertStore) -> Result<TlsConnector, OptionsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| OptionsError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(url: &str) -> Client {
        let options =
            ClientOptions { url: url.parse().unwrap(), key: Some("k".into()), tenant: None, ca_file: None };
        Client::new(options).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn requests_name_the_host_and_escape_what_they_are_given() {
        let check = |url: &str, path: &str, host: &str| {
            let call =
                Call::get(["event-types", "a/b?c"]).query("from", Some("1+1")).query("to", None::<u32>);
            let request = client(url).request(call).unwrap();
            assert_eq!(request.uri(), path, "{url}");
            assert_eq!(request.headers()["host"], host, "{url}");
            assert_eq!(request.headers()["authorization"], "Bearer k");
        };
        check("http://127.0.0.1:8080", "/v1/event-types/a%2Fb%3Fc?from=1%2B1", "127.0.0.1:8080");
        check("http://127.0.0.1:8080/", "/v1/event-types/a%2Fb%3Fc?from=1%2B1", "127.0.0.1:8080");
        check("https://[::1]/neo/", "/neo/v1/event-types/a%2Fb%3Fc?from=1%2B1", "[::1]");
    }

    #[tokio::test]
    async fn https_is_spoken_and_only_trusted_certificates_pass() {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let answers = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let service = hyper::service::service_fn(|_| async {
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from_static(
                        b"{}",
                    ))))
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            }
        };
        let call = async |ca_file: Option<PathBuf>| {
            let options = ClientOptions { url: url.parse().unwrap(), key: None, tenant: None, ca_file };
            Client::new(options).unwrap().call(Call::get(["events"])).await
        };
        let calls = async { (call(Some(ca_file.clone())).await, call(None).await) };
        let (trusted, untrusted) = tokio::select! {
            answered = calls => answered,
            () = answers => unreachable!("it answers for ever"),
        };
        assert_eq!(trusted.unwrap(), Bytes::from_static(b"{}"));
        assert!(matches!(untrusted, Err(CallError::Unreachable { .. })), "{untrusted:?}");
    }

    #[test]
    fn only_urls_that_can_be_called_are_taken() {
        for url in ["ftp://a", "http://a/?x=1", "mailto:a@b", "http://a/#x"] {
            let options = ClientOptions { url: url.parse().unwrap(), key: None, tenant: None, ca_file: None };
            assert!(Client::new(options).is_err(), "{url}");
        }
    }
}
