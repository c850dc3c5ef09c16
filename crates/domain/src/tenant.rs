//! The isolation unit: one schema (PostgreSQL) or one file (SQLite) for the platform, each tenant and each region.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest slug, in characters.
pub const SLUG_CHARS_MAX: usize = 48;

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
    #[error("a slug is a lower-case letter, then at most 47 lower-case letters, digits or underscores")]
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

#[cfg(test)]
mod tests {
    use super::*;

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
