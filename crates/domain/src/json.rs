//! A strict JSON reader (RFC 8259, nothing more).
//!
//! Our own, for three reasons: the bytes that a publisher sent are kept and never re-printed, so all we
//! need from most texts is a verdict ([`check`], which allocates nothing); numbers stay the text they were
//! and compare as exact decimals ([`Number`]), where `f64` would round; and every cost is bounded: time is
//! linear in the text, depth is limited, memory is a small multiple of the text.
//!
//! It is not a serializer: [`Json`] prints itself compactly for people (`explain`), not for storage.
//!
//! A text that is refused says why and at which byte ([`JsonError`]). A leading byte order mark, NaN,
//! comments and trailing commas are refused; so are lone surrogates, since no `str` can hold them.
//! Duplicate keys are accepted, as the RFC permits: the last one counts.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};

mod number;
mod object;
mod read;

pub use number::Number;
pub use object::Object;
use read::{Members, Tree, Verdict, read};

/// The deepest nesting that [`parse`] and [`check`] ever accept, whatever the caller's `depth_max`: the
/// reader recurses once per level, and no input may exhaust the stack.
pub const DEPTH_LIMIT: usize = 128;

/// A JSON value that borrows from its text wherever it can.
///
/// Two values are equal if they mean the same: numbers by value, objects whatever the order of their keys
/// (of duplicates the last counts). `Hash` agrees with that.
#[derive(Clone, Debug)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as written.
    Number(Number<'a>),
    /// A string, unescaped; borrowed where it had no escapes.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object, with its members in the order of the text.
    Object(Object<'a>),
}

/// What sort of value a text holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

/// Why a text is not acceptable JSON, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {offset}")]
pub struct JsonError {
    offset: usize,
    reason: Reason,
}

impl JsonError {
    /// The offending byte, counted from 0; the text's length if it ended too early.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What is wrong there.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Something else stands where the grammar wants `expected`.
    #[error("expected {expected}")]
    Syntax {
        /// What the grammar wants, in words.
        expected: &'static str,
    },
    /// The text stops inside a value.
    #[error("unexpected end of the text")]
    UnexpectedEnd,
    /// A value is complete, and more follows.
    #[error("unexpected content after the value")]
    TrailingContent,
    /// An array or object is nested deeper than the caller allows.
    #[error("nested deeper than {max} levels")]
    TooDeep {
        /// Levels allowed.
        max: usize,
    },
    /// A character below U+0020 inside a string; it must be escaped.
    #[error("unescaped control character in a string")]
    ControlCharacter,
    /// A backslash that begins no escape of JSON's.
    #[error("invalid escape in a string")]
    InvalidEscape,
    /// Half of a surrogate pair without its other half.
    #[error("lone surrogate in a string")]
    LoneSurrogate,
    /// A number with a leading zero, an empty fraction, an empty exponent or a lone sign.
    #[error("invalid number")]
    InvalidNumber,
}

/// Reads `text` into a tree.
///
/// A scalar has depth 0, `{}` depth 1, `{"a":{}}` depth 2; deeper than `depth_max` (or [`DEPTH_LIMIT`]) is
/// refused.
pub fn parse(text: &str, depth_max: usize) -> Result<Json<'_>, JsonError> {
    read::<Tree>(text, depth_max)
}

/// Whether [`parse`] would accept `text`, without building anything; answers the kind of the value.
pub fn check(text: &str, depth_max: usize) -> Result<Kind, JsonError> {
    read::<Verdict>(text, depth_max)
}

/// A key with the text of its value.
pub type Member<'a> = (Cow<'a, str>, &'a str);

/// The members of an object, in the order of the text, each with the text of its value; `None` if `text` is something
/// else. Duplicates are all there.
pub fn members(text: &str, depth_max: usize) -> Result<Option<Vec<Member<'_>>>, JsonError> {
    read::<Members>(text, depth_max)
}

impl<'a> Json<'a> {
    /// What sort of value this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Number(_) => Kind::Number,
            Self::String(_) => Kind::String,
            Self::Array(_) => Kind::Array,
            Self::Object(_) => Kind::Object,
        }
    }

    /// The member `key` of an object; of duplicates the last. `None` for anything that is not an object.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        self.as_object()?.get(key)
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        if let Self::Object(object) = self { Some(object) } else { None }
    }

    /// The elements, if this is an array.
    pub fn as_array(&self) -> Option<&[Json<'a>]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The characters, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Whether this is neither an array nor an object.
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Self::Array(_) | Self::Object(_))
    }

    /// Levels of nesting: 0 for a scalar, 1 for `{}`.
    pub fn depth(&self) -> usize {
        let inside = match self {
            Self::Array(items) => items.iter().map(Json::depth).max(),
            Self::Object(object) => object.iter().map(|(_, value)| value.depth()).max(),
            _ => return 0,
        };
        1 + inside.unwrap_or(0)
    }

    /// The same value, independent of the text it was read from.
    pub fn into_owned(self) -> Json<'static> {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(value),
            Self::Number(number) => Json::Number(number.into_owned()),
            Self::String(text) => Json::String(Cow::Owned(text.into_owned())),
            Self::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Self::Object(object) => Json::Object(object.into_owned()),
        }
    }

    /// A hash that equal values share, the same in every process that runs this build. Different values may
    /// share it too: whoever finds something by it has to compare.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl PartialEq for Json<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::String(a), Self::String(b)) => a == b,
            (Self::Array(a), Self::Array(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Json<'_> {}

impl Hash for Json<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind().hash(state);
        match self {
            Self::Null => {}
            Self::Bool(value) => value.hash(state),
            Self::Number(number) => number.hash(state),
            Self::String(text) => text.hash(state),
            Self::Array(items) => items.hash(state),
            Self::Object(object) => object.hash(state),
        }
    }
}

/// Compact JSON text of the value. Numbers are as they were written; strings have only the escapes that
/// JSON demands.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::String(text) => write_string(f, text),
            Self::Array(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Self::Object(object) => {
                f.write_str("{")?;
                for (index, (key, value)) in object.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write_string(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Writes `text` as a JSON string, quotes included.
pub(crate) fn write_string(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\0'..='\u{1f}' => write!(out, "\\u{:04x}", u32::from(character))?,
            _ => out.write_char(character)?,
        }
    }
    out.write_char('"')
}
