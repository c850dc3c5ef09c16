//! A target: a URL that was parsed once, with everything that is derived from it.
//!
//! The raw text is judged before it is parsed, because URL parsers repair what they are given: a backslash becomes a
//! slash, white space and tabs vanish, `0x7f.1` becomes an address, a missing `//` is supplied. Whatever needs repair
//! is refused, so that no two readers of the same text can disagree about where it leads.
//!
//! Only [`crate::TargetPolicy`] makes targets.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderValue, Uri};
use url::{Host, Url};

use crate::policy::{RefusalReason, TargetRefused, URL_BYTES_MAX};

const HOST_NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// The two schemes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP/1.1.
    Http,
    /// TLS; HTTP/2 or HTTP/1.1 as the receiver chooses.
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What a connection is made to, and pooled by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    pub(crate) host: OriginHost,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OriginHost {
    Name(Box<str>),
    Address(IpAddr),
}

/// A URL that a [`crate::TargetPolicy`] has accepted. Cheap to clone.
#[derive(Clone)]
pub struct Target(Arc<Parts>);

struct Parts {
    origin: Arc<Origin>,
    url: String,
    /// Byte range of the host in `url`, without brackets.
    host: std::ops::Range<usize>,
    host_header: HeaderValue,
    uri_absolute: Uri,
    uri_origin_form: Uri,
}

impl Target {
    /// http or https.
    pub fn scheme(&self) -> Scheme {
        self.0.origin.scheme
    }

    /// The host name in its ASCII form without a trailing dot, or the literal address without brackets.
    pub fn host(&self) -> &str {
        &self.0.url[self.0.host.clone()]
    }

    /// The address, if the host is a literal one. IPv4-mapped IPv6 is given as the IPv4 address it leads to.
    pub fn address(&self) -> Option<IpAddr> {
        match self.0.origin.host {
            OriginHost::Address(address) => Some(address),
            OriginHost::Name(_) => None,
        }
    }

    /// The port, also where it is the scheme's own.
    pub fn port(&self) -> u16 {
        self.0.origin.port
    }

    /// What follows the host, beginning with `/`; without the fragment, which is never sent.
    pub fn path_and_query(&self) -> &str {
        self.0.uri_origin_form.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// The normalised URL.
    pub fn as_str(&self) -> &str {
        &self.0.url
    }

    pub(crate) fn origin(&self) -> &Arc<Origin> {
        &self.0.origin
    }

    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }

    pub(crate) fn uri_absolute(&self) -> &Uri {
        &self.0.uri_absolute
    }

    pub(crate) fn uri_origin_form(&self) -> &Uri {
        &self.0.uri_origin_form
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.url)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Target").field(&self.0.url).finish()
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.0.url == other.0.url
    }
}

impl Eq for Target {}

/// Judges the raw text of a URL, parses it once and derives the target. Knows forms only, no profiles.
pub(crate) fn parse(raw: &str) -> Result<Target, TargetRefused> {
    let form = RawForm::of(raw)?;
    let mut url = Url::parse(raw).map_err(|_| refused(RefusalReason::HostName))?;
    let host = match url.host() {
        None => return Err(refused(RefusalReason::Malformed)),
        Some(Host::Ipv4(address)) => {
            if form.host != address.to_string() {
                return Err(refused(RefusalReason::NonCanonicalAddress));
            }
            OriginHost::Address(IpAddr::V4(address))
        }
        Some(Host::Ipv6(address)) => {
            if form.bracketed()?.parse::<Ipv6Addr>() != Ok(address) {
                return Err(refused(RefusalReason::NonCanonicalAddress));
            }
            OriginHost::Address(IpAddr::V6(address).to_canonical())
        }
        Some(Host::Domain(name)) => {
            let name: Box<str> = name.strip_suffix('.').unwrap_or(name).into();
            check_host_name(&name)?;
            url.set_host(Some(&name)).map_err(|_| refused(RefusalReason::HostName))?;
            OriginHost::Name(name)
        }
    };
    let port = form.port.unwrap_or(form.scheme.default_port());
    if url.port_or_known_default() != Some(port) || url.scheme() != form.scheme_text() {
        // Two readings of one text: trust neither.
        return Err(refused(RefusalReason::Malformed));
    }
    url.set_fragment(None);
    derive(&url, Origin { scheme: form.scheme, host, port })
}

/// The parts of the text as they stand there, before any parser repairs them.
struct RawForm<'a> {
    scheme: Scheme,
    host: &'a str,
    port: Option<u16>,
}

impl<'a> RawForm<'a> {
    fn of(raw: &'a str) -> Result<Self, TargetRefused> {
        if raw.len() > URL_BYTES_MAX {
            return Err(refused(RefusalReason::UrlTooLong));
        }
        if raw.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(refused(RefusalReason::ForbiddenCharacter));
        }
        let (scheme, rest) = raw.split_once(':').ok_or(refused(RefusalReason::Malformed))?;
        let scheme = if scheme.eq_ignore_ascii_case("https") {
            Scheme::Https
        } else if scheme.eq_ignore_ascii_case("http") {
            Scheme::Http
        } else if scheme.contains('/') {
            return Err(refused(RefusalReason::Malformed));
        } else {
            return Err(refused(RefusalReason::Scheme));
        };
        let rest = rest.strip_prefix("//").ok_or(refused(RefusalReason::Malformed))?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(refused(RefusalReason::Userinfo));
        }
        if authority.contains('%') {
            return Err(refused(RefusalReason::HostName));
        }
        let (host, port) = split_port(authority)?;
        if host.is_empty() {
            return Err(refused(RefusalReason::Malformed));
        }
        Ok(Self { scheme, host, port })
    }

    fn scheme_text(&self) -> &'static str {
        match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn bracketed(&self) -> Result<&'a str, TargetRefused> {
        self.host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or(refused(RefusalReason::NonCanonicalAddress))
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), TargetRefused> {
    let host_end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    if port.is_empty() {
        return Ok((host, None));
    }
    let digits = port.strip_prefix(':').ok_or(refused(RefusalReason::Malformed))?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    match digits.parse::<u16>() {
        Ok(port) if plain => Ok((host, Some(port))),
        _ => Err(refused(RefusalReason::Port)),
    }
}

/// Underscores pass here and are left to the profile.
fn check_host_name(name: &str) -> Result<(), TargetRefused> {
    let sound = name.len() <= HOST_NAME_BYTES_MAX && name.split('.').all(is_label);
    if sound { Ok(()) } else { Err(refused(RefusalReason::HostName)) }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn derive(url: &Url, origin: Origin) -> Result<Target, TargetRefused> {
    let malformed = || refused(RefusalReason::Malformed);
    let url = url.as_str();
    if url.len() > URL_BYTES_MAX {
        return Err(refused(RefusalReason::UrlTooLong));
    }
    let authority_start = url.find("://").ok_or_else(malformed)? + 3;
    let authority_len = url[authority_start..].find(['/', '?']).ok_or_else(malformed)?;
    let authority = &url[authority_start..authority_start + authority_len];
    let host = match authority.strip_prefix('[') {
        Some(rest) => authority_start + 1..authority_start + 1 + rest.find(']').ok_or_else(malformed)?,
        None => authority_start..authority_start + authority.find(':').unwrap_or(authority_len),
    };
    let host_header = HeaderValue::from_str(authority).map_err(|_| malformed())?;
    let uri_absolute: Uri = url.parse().map_err(|_| malformed())?;
    let uri_origin_form: Uri = url[authority_start + authority_len..].parse().map_err(|_| malformed())?;
    Ok(Target(Arc::new(Parts {
        origin: Arc::new(origin),
        host,
        host_header,
        uri_absolute,
        uri_origin_form,
        url: url.to_owned(),
    })))
}

fn refused(reason: RefusalReason) -> TargetRefused {
    TargetRefused::new(reason)
}
