//! Which targets may be reached: the one policy for deliveries, verifications and everything else that goes out.
//!
//! A target is judged twice. When it is written, [`TargetPolicy::judge_url`] looks at its form, at a literal
//! address and at the name, and never asks DNS: a name that does not resolve yet is fine, and one that resolves to
//! something harmless today may not tomorrow. When it is connected to, [`TargetPolicy::judge_address`] looks at the
//! very address.
//!
//! Nothing here does I/O. It fails closed: what no rule opens is refused.

use std::net::IpAddr;

use crate::address::{Place, place_of};
use crate::target::{self, Scheme, Target};

/// The longest URL that is looked at, in bytes, both as given and after normalisation.
pub const URL_BYTES_MAX: usize = 2048;

/// Ports below this one belong to services that were never meant to be spoken to in HTTP.
const PORT_UNPRIVILEGED_MIN: u16 = 1024;

/// Names under which clouds and clusters serve credentials or control. Refused in every profile, with everything
/// below them.
const CONTROL_NAMES: [&str; 8] = [
    "instance-data",
    "instance-data.ec2.internal",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
];

/// Top labels that mean "inside this network" wherever they are asked for.
const LOCAL_TOP_LABELS: [&str; 4] = ["internal", "local", "localdomain", "svc"];

/// What may be connected to. Cheap to clone; immutable once built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings: every combination is a policy")]
pub struct TargetPolicy {
    plain_http: bool,
    loopback: bool,
    private: bool,
    any_port: bool,
    nat64: bool,
}

impl TargetPolicy {
    /// Loopback and private ranges, local names and every port are open. Link-local, metadata, multicast,
    /// unspecified and all other special-purpose addresses stay refused.
    pub fn development() -> Self {
        Self { plain_http: true, loopback: true, private: true, any_port: true, nat64: false }
    }

    /// Only public targets, over http or https, on ports 80, 443 or from 1024 up.
    pub fn staging() -> Self {
        Self { plain_http: true, loopback: false, private: false, any_port: false, nat64: false }
    }

    /// As [`staging`](Self::staging), over https alone.
    pub fn production() -> Self {
        Self { plain_http: false, ..Self::staging() }
    }

    /// Overrides the profile for this machine's own addresses and the `localhost` names.
    #[must_use]
    pub fn with_blocked_loopback(self, blocked: bool) -> Self {
        Self { loopback: !blocked, ..self }
    }

    /// Overrides the profile for private ranges and for the names that live in them (single labels, `.internal`,
    /// `.local`, `.localdomain`, `.svc`).
    #[must_use]
    pub fn with_blocked_private(self, blocked: bool) -> Self {
        Self { private: !blocked, ..self }
    }

    /// Opens the well-known NAT64 prefix `64:ff9b::/96`, whose addresses are then judged by the IPv4 address inside.
    #[must_use]
    pub fn with_nat64(self, allowed: bool) -> Self {
        Self { nat64: allowed, ..self }
    }

    /// Judges a URL by its form, its literal address and its name; never asks DNS.
    pub fn judge_url(&self, url: &str) -> Result<Target, TargetRefused> {
        let target = target::parse(url)?;
        if target.scheme() == Scheme::Http && !self.plain_http {
            return Err(TargetRefused::new(RefusalReason::Scheme));
        }
        if !self.any_port && !matches!(target.port(), 80 | 443 | PORT_UNPRIVILEGED_MIN..) {
            return Err(TargetRefused::new(RefusalReason::Port));
        }
        match target.address() {
            Some(address) => self.judge_address(address)?,
            None => self.judge_name(target.host())?,
        }
        Ok(target)
    }

    /// Judges the very address that is about to be connected to, or just was.
    pub fn judge_address(&self, address: IpAddr) -> Result<(), TargetRefused> {
        let open = match place_of(address) {
            Place::Public => true,
            Place::Loopback => self.loopback,
            Place::Private => self.private,
            Place::Nat64(inner) => self.nat64 && self.judge_address(IpAddr::V4(inner)).is_ok(),
            Place::Special => false,
        };
        if open { Ok(()) } else { Err(TargetRefused::new(RefusalReason::Address)) }
    }

    fn judge_name(&self, name: &str) -> Result<(), TargetRefused> {
        let refused = Err(TargetRefused::new(RefusalReason::HostName));
        if CONTROL_NAMES.iter().any(|control| is_or_continues(name, control)) {
            return refused;
        }
        let top_label = name.rsplit('.').next().unwrap_or(name);
        let open = if top_label == "localhost" || name == "localhost.localdomain" {
            self.loopback
        } else if top_label.len() == name.len() || LOCAL_TOP_LABELS.contains(&top_label) {
            self.private
        } else {
            // An underscore is no host name on the internet, but a usual one among containers.
            self.private || !name.contains('_')
        };
        if open { Ok(()) } else { refused }
    }
}

/// Whether `name` is `control`, or `control` with a search domain behind it (`kubernetes.default.svc.cluster.local`).
/// A single-label control name is only itself: `metadata.example.com` is anybody's.
fn is_or_continues(name: &str, control: &str) -> bool {
    match name.strip_prefix(control) {
        Some("") => true,
        Some(rest) => rest.starts_with('.') && control == "kubernetes.default.svc",
        None => false,
    }
}

/// Why a target was refused. Fit for an operator's log; a tenant gets the text of [`TargetRefused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// Longer than [`URL_BYTES_MAX`].
    UrlTooLong,
    /// A control character, white space or a backslash somewhere in the URL.
    ForbiddenCharacter,
    /// Not an absolute URL with `//` and a host.
    Malformed,
    /// Neither https nor, where the profile allows it, http.
    Scheme,
    /// `user:password@` in front of the host.
    Userinfo,
    /// No port, or one that the profile does not open.
    Port,
    /// Not a host name, or one that belongs to the inside.
    HostName,
    /// An IPv4 address in a spelling other than four plain decimal numbers.
    NonCanonicalAddress,
    /// An address that the profile does not open.
    Address,
}

/// A target that the policy refuses.
///
/// Its text may be shown to a tenant: it says what is wrong with the form, and is the same sentence for every name
/// and address, so that nobody can map the inside with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct TargetRefused {
    reason: RefusalReason,
}

impl TargetRefused {
    pub(crate) fn new(reason: RefusalReason) -> Self {
        Self { reason }
    }

    /// The exact reason, for operators.
    pub fn reason(&self) -> RefusalReason {
        self.reason
    }

    /// The machine-readable code of every refusal: `target_not_allowed`.
    pub fn code(&self) -> &'static str {
        "target_not_allowed"
    }

    fn text(self) -> &'static str {
        match self.reason {
            RefusalReason::UrlTooLong => "the URL is longer than 2048 bytes",
            RefusalReason::ForbiddenCharacter => {
                "the URL contains a control character, white space or a backslash"
            }
            RefusalReason::Malformed => "the URL is not an absolute http or https URL",
            RefusalReason::Scheme => "the scheme of the URL is not allowed",
            RefusalReason::Userinfo => "the URL must not contain a user name or password",
            RefusalReason::Port => "the port of the URL is not allowed",
            RefusalReason::HostName | RefusalReason::NonCanonicalAddress | RefusalReason::Address => {
                "the target is not allowed"
            }
        }
    }
}
