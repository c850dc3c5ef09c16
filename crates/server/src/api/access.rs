//! Who asks, and where they act: from a request's headers to a caller and a tenant's handle.
//!
//! An *admin key* is the configured one, or an API key of tenant `admin` with scope `admin`. It acts in `admin`, or in
//! the tenant that `X-Neo-Tenant-ID` names. Any other key acts in its own tenant, and in its own context if it has one;
//! naming another tenant is answered as if that were not there, so that nobody learns which tenants there are.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use neo_events::{ApiKey, Directory, Schema, Scope, Tenant};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::Refusal;

const TENANT_ID: HeaderName = HeaderName::from_static("x-neo-tenant-id");

/// Whose key a request brought.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// An admin key's: may do everything, everywhere.
    Admin,
    /// Another's.
    Key(Arc<ApiKey>),
}

impl Caller {
    pub(super) const fn is_admin(&self) -> bool {
        matches!(self, Self::Admin)
    }

    pub(super) fn may(&self, scope: Scope) -> bool {
        match self {
            Self::Admin => true,
            Self::Key(key) => key.scopes.allow(scope),
        }
    }
}

/// SHA-256 of the configured key: digests of equal length can be compared in constant time.
pub(super) struct AdminKeyDigest([u8; 32]);

impl AdminKeyDigest {
    pub(super) fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn is_of(&self, key: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(key).0).into()
    }
}

/// Checks keys.
pub(super) struct Gate {
    pub(super) directory: Directory,
    pub(super) admin_key: AdminKeyDigest,
}

impl Gate {
    /// The caller, and the handle of what they see.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Result<(Caller, Tenant), Refusal> {
        let caller = self.caller(headers).await?;
        let named = named_tenant(headers)?;
        let tenant = match (&caller, named) {
            (Caller::Admin, named) => self.directory.handle(self.existing(named).await?),
            (Caller::Key(key), Some(named)) if named != key.schema => {
                return Err(Refusal::tenant_not_found(&named.tenant_header()));
            }
            (Caller::Key(key), _) => self.directory.handle_for(key),
        };
        Ok((caller, tenant))
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let key = bearer_key(headers).ok_or_else(Refusal::unauthorized)?;
        if self.admin_key.is_of(key) {
            return Ok(Caller::Admin);
        }
        let text = str::from_utf8(key).map_err(|_| Refusal::unauthorized())?;
        let key = self.directory.authenticate(text).await?.ok_or_else(Refusal::unauthorized)?;
        let is_admin = key.schema == Schema::admin() && key.scopes.allow(Scope::Admin);
        Ok(if is_admin { Caller::Admin } else { Caller::Key(key) })
    }

    async fn existing(&self, named: Option<Schema>) -> Result<Schema, Refusal> {
        let schema = named.unwrap_or_else(Schema::admin);
        let is_there = self.directory.has_tenant(&schema).await?;
        if is_there { Ok(schema) } else { Err(Refusal::tenant_not_found(&schema.tenant_header())) }
    }
}

/// The key of `Authorization: Bearer KEY` (RFC 6750 §2.1); the scheme's case does not matter.
fn bearer_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key.trim_ascii())
}

fn named_tenant(headers: &HeaderMap) -> Result<Option<Schema>, Refusal> {
    let mut values = headers.get_all(TENANT_ID).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let schema = value.to_str().ok().and_then(|value| Schema::from_tenant_header(value).ok());
            schema.map(Some).ok_or_else(Refusal::invalid_tenant_id)
        }
        (Some(_), Some(_)) => Err(Refusal::invalid_tenant_id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_compared_whole() {
        let digest = AdminKeyDigest::of(b"0123456789abcdef");
        assert!(digest.is_of(b"0123456789abcdef"));
        for other in [&b""[..], b"0123456789abcde", b"0123456789abcdef0", b"0123456789abcdeF"] {
            assert!(!digest.is_of(other));
        }
    }
}
