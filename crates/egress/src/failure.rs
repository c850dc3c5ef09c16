//! What can happen to a request instead of a response.
//!
//! Receivers fail in every way there is, and all of them are ordinary outcomes that the caller records, so each has a
//! kind. What users call it is the caller's business: there it has one name, whatever it was that failed. The texts are
//! fixed fragments: no address, no name and nothing that a receiver sent gets into them, so they may be shown to a
//! tenant.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;
use rustls::CertificateError;

use crate::policy::TargetRefused;
use crate::stream::AllowanceSpent;

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// DNS, TCP and TLS together took longer than min(10 s, a third of the total timeout).
    TimeoutConnect,
    /// The total timeout passed before the last byte of the response.
    TimeoutTotal,
    /// No address of the host accepts connections on the port.
    ConnectionRefused,
    /// The peer broke the connection off.
    ConnectionReset,
    /// The peer closed the connection before a whole response.
    ConnectionClosed,
    /// No route to any address of the host, or nothing left on this machine to connect with.
    Unreachable,
    /// The name does not resolve, or could not be resolved.
    Dns,
    /// No TLS session, or none with an acceptable certificate.
    Tls,
    /// The policy refuses the address, or the target of a redirect.
    TargetRefused,
    /// More redirects than are followed.
    TooManyRedirects,
    /// A redirect without a usable location, or from https down to http.
    RedirectInvalid,
    /// The head of the response, or what frames its body, is larger than is read.
    ResponseHeadersTooLarge,
    /// What came back is not HTTP.
    ProtocolError,
    /// The receiver switched protocols (101).
    UpgradeRefused,
    /// The request itself cannot be sent, for example for a header that HTTP/2 forbids.
    RequestInvalid,
}

impl FailureKind {
    /// Whether the connection is at fault, rather than what was said over it.
    pub(crate) fn is_connection_error(self) -> bool {
        match self {
            Self::TimeoutConnect
            | Self::ConnectionRefused
            | Self::ConnectionReset
            | Self::ConnectionClosed
            | Self::Unreachable
            | Self::Dns
            | Self::Tls => true,
            Self::TimeoutTotal
            | Self::TargetRefused
            | Self::TooManyRedirects
            | Self::RedirectInvalid
            | Self::ResponseHeadersTooLarge
            | Self::ProtocolError
            | Self::UpgradeRefused
            | Self::RequestInvalid => false,
        }
    }
}

/// A request that got no whole response.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// What happened.
    pub kind: FailureKind,
    /// The same in words that may be shown to a tenant.
    pub detail: String,
    /// Whether the request went out on a connection that had served another one before.
    pub connection_reused: bool,
    /// The status, if the head of a response had arrived.
    pub status: Option<StatusCode>,
    /// From the call to the failure.
    pub elapsed: Duration,
}

/// A failure while the rest of [`Failure`] is not known yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: FailureKind,
    pub(crate) detail: &'static str,
}

/// How it is known that a receiver has done nothing with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untouched {
    /// Not a byte of it was written.
    NotWritten,
    /// The receiver says so of this request; the connection is as good as before.
    Refused,
    /// The receiver says so of all from this request on, and closes the connection.
    Leaving,
}

impl Fault {
    pub(crate) fn new(kind: FailureKind, detail: &'static str) -> Self {
        Self { kind, detail }
    }

    pub(crate) fn timeout_connect() -> Self {
        Self::new(FailureKind::TimeoutConnect, "no connection within the time allowed")
    }

    pub(crate) fn timeout_total() -> Self {
        Self::new(FailureKind::TimeoutTotal, "no whole response within the time allowed")
    }

    pub(crate) fn closed() -> Self {
        Self::new(FailureKind::ConnectionClosed, "the connection was closed before a whole response")
    }

    pub(crate) fn own_shortage() -> Self {
        Self::new(FailureKind::Unreachable, "this machine has reached its limit on open files or ports")
    }

    pub(crate) fn reset() -> Self {
        Self::new(FailureKind::ConnectionReset, "the connection was reset")
    }

    fn head_too_large() -> Self {
        Self::new(FailureKind::ResponseHeadersTooLarge, "the head of the response is too large")
    }

    fn protocol() -> Self {
        Self::new(FailureKind::ProtocolError, "the response is not valid HTTP")
    }

    /// Of the attempt to open a TCP connection.
    pub(crate) fn from_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Self::new(FailureKind::ConnectionRefused, "the connection was refused")
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::reset(),
            io::ErrorKind::TimedOut => Self::timeout_connect(),
            _ if inner::<OwnShortage>(error).is_some() => Self::own_shortage(),
            _ => Self::new(FailureKind::Unreachable, "the host cannot be reached"),
        }
    }

    /// Of a TLS handshake, whatever breaks it.
    pub(crate) fn from_handshake(error: &io::Error) -> Self {
        let detail = inner::<rustls::Error>(error).map_or("the TLS handshake was broken off", tls_detail);
        Self::new(FailureKind::Tls, detail)
    }

    /// Of an exchange on an open connection.
    pub(crate) fn from_exchange(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            return Self::head_too_large();
        }
        if error.is_parse() {
            return Self::protocol();
        }
        if error.is_timeout() {
            return Self::new(FailureKind::ConnectionClosed, "the receiver gave no sign of life");
        }
        if error.is_user() {
            return Self::new(FailureKind::RequestInvalid, "the request cannot be sent");
        }
        let cause = error.source();
        if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
            return Self::from_stream(error);
        }
        if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<h2::Error>()) {
            return Self::from_h2(error);
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            return Self::closed();
        }
        Self::protocol()
    }

    /// Whether the receiver says that it has done nothing with the request (RFC 9113, 8.7): it took this stream not, or
    /// is closing the connection and named an earlier one as its last.
    pub(crate) fn says_untouched(error: &hyper::Error) -> Option<Untouched> {
        let error = error.source()?.downcast_ref::<h2::Error>().filter(|error| error.is_remote())?;
        if error.is_go_away() {
            Some(Untouched::Leaving)
        } else if error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            Some(Untouched::Refused)
        } else {
            None
        }
    }

    fn from_h2(error: &h2::Error) -> Self {
        if let Some(error) = error.get_io() {
            Self::from_stream(error)
        } else if error.is_remote() {
            Self::reset()
        } else {
            Self::protocol()
        }
    }

    fn from_stream(error: &io::Error) -> Self {
        // HTTP/2 hands on the text alone of what is in an I/O error.
        if error.to_string() == AllowanceSpent.to_string() {
            return Self::head_too_large();
        }
        if let Some(error) = inner::<rustls::Error>(error) {
            return Self::new(FailureKind::Tls, tls_detail(error));
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::closed(),
            // What a body decoder says about a broken chunk comes as an I/O error too.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Self::protocol(),
            _ => Self::reset(),
        }
    }
}

/// The reason in the I/O error of an attempt to connect for which this machine had nothing left.
#[derive(Debug, thiserror::Error)]
#[error("no more files or ports may be opened")]
pub(crate) struct OwnShortage;

impl OwnShortage {
    /// Whether a system call failed because there are no more open files or buffers to be had. The numbers are those of
    /// Unix; the standard library names none of them.
    pub(crate) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const ENOBUFS: i32 = if cfg!(target_os = "linux") { 105 } else { 55 };
        let code = error.downcast_ref().and_then(io::Error::raw_os_error);
        matches!(code, Some(ENFILE | EMFILE | ENOBUFS))
    }
}

impl From<TargetRefused> for Fault {
    fn from(_: TargetRefused) -> Self {
        Self::new(FailureKind::TargetRefused, "the target is not allowed")
    }
}

/// What another layer has wrapped in an I/O error.
fn inner<E: Error + 'static>(error: &io::Error) -> Option<&E> {
    error.get_ref()?.downcast_ref()
}

fn tls_detail(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return "the TLS handshake failed";
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::UnknownIssuer => "the certificate's issuer is not trusted",
        CertificateError::Revoked => "the certificate was revoked",
        _ => "the certificate is not acceptable",
    }
}
