//! The isolation unit: one schema (PostgreSQL) or one file (SQLite) for the platform, each tenant and each region.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;

use crate::violation::{Faults, Rule, Violations};

/// Longest slug, in characters.
pub const SLUG_CHARS_MAX: usize = 48;
/// Longest name of a tenant, in characters.
pub const TENANT_NAME_CHARS_MAX: usize = 255;

const SLUG_EXPECTED: &str = "a lower-case letter, then at most 47 lower-case letters, digits or underscores";

/// The name of a schema: `admin`, `tenant_<slug>` or `shared_<region>`. Nothing else can be one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Schema(Arc<str>);

/// Why a schema name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Neither `admin` nor one of the two prefixes.
    #[error("a schema is admin, tenant_<slug> or shared_<region>")]
    Kind,
    /// The slug or region breaks `[a-z][a-z0-9_]{0,47}`.
    #[error("a slug is {SLUG_EXPECTED}")]
    Slug,
}

impl Schema {
    /// The platform's own schema.
    pub fn admin() -> Self {
        Self("admin".into())
    }

    /// The schema of a tenant.
    pub fn tenant(slug: &str) -> Result<Self, SchemaError> {
        Self::prefixed("tenant_", slug)
    }

    /// The schema shared by a region.
    pub fn shared(region: &str) -> Result<Self, SchemaError> {
        Self::prefixed("shared_", region)
    }

    /// The name as the database knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of `X-Neo-Tenant-ID`: `admin`, the slug, or `region:<region>`.
    pub fn tenant_header(&self) -> String {
        match (self.0.strip_prefix("tenant_"), self.0.strip_prefix("shared_")) {
            (Some(slug), _) => slug.to_owned(),
            (None, Some(region)) => format!("region:{region}"),
            (None, None) => self.0.to_string(),
        }
    }

    /// Reads a value of `X-Neo-Tenant-ID`. A tenant whose slug is `admin` cannot be named by it, and so cannot be
    /// made either.
    pub fn from_tenant_header(value: &str) -> Result<Self, SchemaError> {
        match (value, value.strip_prefix("region:")) {
            ("admin", _) => Ok(Self::admin()),
            (_, Some(region)) => Self::shared(region),
            (slug, None) => Self::tenant(slug),
        }
    }

    fn prefixed(prefix: &str, slug: &str) -> Result<Self, SchemaError> {
        let bytes = slug.as_bytes();
        let fits = (1..=SLUG_CHARS_MAX).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
        if fits { Ok(Self(format!("{prefix}{slug}").into())) } else { Err(SchemaError::Slug) }
    }
}

impl FromStr for Schema {
    type Err = SchemaError;
    fn from_str(name: &str) -> Result<Self, SchemaError> {
        match (name, name.strip_prefix("tenant_"), name.strip_prefix("shared_")) {
            ("admin", ..) => Ok(Self::admin()),
            (_, Some(slug), _) => Self::tenant(slug),
            (_, _, Some(region)) => Self::shared(region),
            _ => Err(SchemaError::Kind),
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tenant, or a region's shared schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its schema, and by that its slug or region.
    pub schema: Schema,
    /// For people.
    pub name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A tenant to be made: either a slug or a region.
#[derive(Debug, Clone, Default)]
pub struct TenantDraft {
    /// `[a-z][a-z0-9_]{0,47}`; not `admin`.
    pub slug: Option<String>,
    /// The same form.
    pub region: Option<String>,
    /// At most [`TENANT_NAME_CHARS_MAX`] characters.
    pub name: Option<String>,
}

impl TenantDraft {
    /// Checks every field. Whether it is there already is the store's to say.
    pub fn validate(self, now: Timestamp) -> Result<Tenant, Violations> {
        let mut faults = Faults::new();
        let malformed = |_| Rule::Malformed { expected: SLUG_EXPECTED };
        let schema = match (self.slug.as_deref(), self.region.as_deref()) {
            (Some("admin"), None) => {
                faults.add("/slug", Rule::Conflict("is the platform's own schema"));
                None
            }
            (Some(slug), None) => faults.take("/slug", Schema::tenant(slug).map_err(malformed)),
            (None, Some(region)) => faults.take("/region", Schema::shared(region).map_err(malformed)),
            (Some(_), Some(_)) => {
                faults.add(
                    "/region",
                    Rule::Conflict("is given together with a slug: a tenant has one of them"),
                );
                None
            }
            (None, None) => {
                faults.add("/slug", Rule::Required);
                None
            }
        };
        let name = self.name.map(|name| faults.name("/name", &name, TENANT_NAME_CHARS_MAX));
        faults.found()?;
        let required = || Violations::one("/slug", Rule::Required);
        Ok(Tenant { schema: schema.ok_or_else(required)?, name, created_at: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_a_slug_or_a_region() {
        let check = |slug: Option<&str>, region: Option<&str>| {
            let draft =
                TenantDraft { slug: slug.map(Into::into), region: region.map(Into::into), name: None };
            draft.validate(Timestamp::UNIX_EPOCH).map(|tenant| tenant.schema.to_string()).ok()
        };
        assert_eq!(check(Some("acme"), None).as_deref(), Some("tenant_acme"));
        assert_eq!(check(None, Some("eu")).as_deref(), Some("shared_eu"));
        for (slug, region) in [
            (None, None),
            (Some("a"), Some("b")),
            (Some("admin"), None),
            (Some("Acme"), None),
            (Some("a-b"), None),
            (Some(""), None),
            (None, Some("EU")),
        ] {
            assert_eq!(check(slug, region), None, "{slug:?} {region:?}");
        }
    }

    #[test]
    fn the_header_names_every_schema() {
        for name in ["admin", "tenant_acme", "shared_eu_west_1", "tenant_shared"] {
            let schema: Schema = name.parse().unwrap();
            assert_eq!(Schema::from_tenant_header(&schema.tenant_header()), Ok(schema));
        }
        for bad in ["", "Acme", "region:", "region:EU", "a b", "tenant-a"] {
            assert!(Schema::from_tenant_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_three_forms_are_schemas() {
        for good in ["admin", "tenant_acme", "tenant_a", "shared_eu_west_1"] {
            assert_eq!(good.parse::<Schema>().unwrap().as_str(), good);
        }
        let long = format!("tenant_{}", "a".repeat(49));
        for bad in
            ["", "public", "Admin", "tenant_", "tenant_1a", "tenant_A", "shared_é", "tenant_a-b", &long]
        {
            assert!(bad.parse::<Schema>().is_err(), "{bad}");
        }
    }
}
