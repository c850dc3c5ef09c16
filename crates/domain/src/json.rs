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

pub use number::Number;
pub use object::Object;

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

    /// The number, if this is one.
    pub fn as_number(&self) -> Option<&Number<'a>> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
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

/// What a reading leaves behind: a tree, or just the verdict.
trait Output<'a> {
    type Value;
    type Items: Default;
    type Members: Default;

    fn scalar(scalar: Scalar<'a>) -> Self::Value;
    fn item(items: &mut Self::Items, value: Self::Value);
    fn member(members: &mut Self::Members, key: RawString<'a>, value: Self::Value);
    fn array(items: Self::Items) -> Self::Value;
    fn object(members: Self::Members) -> Self::Value;
}

/// A scalar as it stands in the text.
enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(RawString<'a>),
}

/// The inside of a valid string literal.
struct RawString<'a> {
    raw: &'a str,
    has_escapes: bool,
}

impl<'a> RawString<'a> {
    fn unescape(self) -> Cow<'a, str> {
        if !self.has_escapes {
            return Cow::Borrowed(self.raw);
        }
        let mut plain = String::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(at) = rest.find('\\') {
            let (character, length) =
                escape(&rest.as_bytes()[at..]).expect("escapes were checked when the literal was read");
            plain.push_str(&rest[..at]);
            plain.push(character);
            rest = &rest[at + length..];
        }
        plain.push_str(rest);
        Cow::Owned(plain)
    }
}

struct Tree;

impl<'a> Output<'a> for Tree {
    type Value = Json<'a>;
    type Items = Vec<Json<'a>>;
    type Members = Vec<(Cow<'a, str>, Json<'a>)>;

    fn scalar(scalar: Scalar<'a>) -> Json<'a> {
        match scalar {
            Scalar::Null => Json::Null,
            Scalar::Bool(value) => Json::Bool(value),
            Scalar::Number(text) => Json::Number(Number::from_checked(text)),
            Scalar::String(raw) => Json::String(raw.unescape()),
        }
    }

    fn item(items: &mut Self::Items, value: Json<'a>) {
        items.push(value);
    }

    fn member(members: &mut Self::Members, key: RawString<'a>, value: Json<'a>) {
        members.push((key.unescape(), value));
    }

    fn array(items: Self::Items) -> Json<'a> {
        Json::Array(items)
    }

    fn object(members: Self::Members) -> Json<'a> {
        Json::Object(Object::new(members))
    }
}

struct Verdict;

impl<'a> Output<'a> for Verdict {
    type Value = Kind;
    type Items = ();
    type Members = ();

    fn scalar(scalar: Scalar<'a>) -> Kind {
        match scalar {
            Scalar::Null => Kind::Null,
            Scalar::Bool(_) => Kind::Bool,
            Scalar::Number(_) => Kind::Number,
            Scalar::String(_) => Kind::String,
        }
    }

    fn item((): &mut (), _value: Kind) {}

    fn member((): &mut (), _key: RawString<'a>, _value: Kind) {}

    fn array((): ()) -> Kind {
        Kind::Array
    }

    fn object((): ()) -> Kind {
        Kind::Object
    }
}

fn read<'a, O: Output<'a>>(text: &'a str, depth_max: usize) -> Result<O::Value, JsonError> {
    let mut reader = Reader { text, at: 0, depth_max: depth_max.min(DEPTH_LIMIT) };
    reader.skip_whitespace();
    let value = reader.value::<O>(0)?;
    reader.skip_whitespace();
    if reader.at < text.len() {
        return Err(reader.error(Reason::TrailingContent));
    }
    Ok(value)
}

/// A position in a text. Each method reads one production of the grammar and leaves the position behind it.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth_max: usize,
}

impl<'a> Reader<'a> {
    fn value<O: Output<'a>>(&mut self, depth: usize) -> Result<O::Value, JsonError> {
        let scalar = match self.peek() {
            Some(b'{') => return self.object::<O>(depth + 1),
            Some(b'[') => return self.array::<O>(depth + 1),
            Some(b'"') => Scalar::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Scalar::Number(self.number()?),
            Some(b'n') => self.word("null", Scalar::Null)?,
            Some(b't') => self.word("true", Scalar::Bool(true))?,
            Some(b'f') => self.word("false", Scalar::Bool(false))?,
            _ => return Err(self.expected("a value")),
        };
        Ok(O::scalar(scalar))
    }

    fn array<O: Output<'a>>(&mut self, depth: usize) -> Result<O::Value, JsonError> {
        self.open(depth)?;
        let mut items = O::Items::default();
        if self.accept(b']') {
            return Ok(O::array(items));
        }
        loop {
            let value = self.value::<O>(depth)?;
            O::item(&mut items, value);
            self.skip_whitespace();
            if self.accept(b']') {
                return Ok(O::array(items));
            }
            if !self.accept(b',') {
                return Err(self.expected("a comma or a closing bracket"));
            }
            self.skip_whitespace();
        }
    }

    fn object<O: Output<'a>>(&mut self, depth: usize) -> Result<O::Value, JsonError> {
        self.open(depth)?;
        let mut members = O::Members::default();
        if self.accept(b'}') {
            return Ok(O::object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in double quotes"));
            }
            let key = self.string()?;
            self.skip_whitespace();
            if !self.accept(b':') {
                return Err(self.expected("a colon"));
            }
            self.skip_whitespace();
            let value = self.value::<O>(depth)?;
            O::member(&mut members, key, value);
            self.skip_whitespace();
            if self.accept(b'}') {
                return Ok(O::object(members));
            }
            if !self.accept(b',') {
                return Err(self.expected("a comma or a closing brace"));
            }
            self.skip_whitespace();
        }
    }

    /// Passes the bracket or brace that opens level `depth`.
    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > self.depth_max {
            return Err(self.error(Reason::TooDeep { max: self.depth_max }));
        }
        self.at += 1;
        self.skip_whitespace();
        Ok(())
    }

    fn word(&mut self, word: &'static str, meaning: Scalar<'a>) -> Result<Scalar<'a>, JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(meaning);
        }
        let same = rest.iter().zip(word.as_bytes()).take_while(|(a, b)| a == b).count();
        self.at += same;
        Err(self.expected("null, true or false"))
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        self.accept(b'-');
        if !self.accept(b'0') {
            self.digits()?;
        } else if matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.error(Reason::InvalidNumber));
        }
        if self.accept(b'.') {
            self.digits()?;
        }
        if self.accept(b'e') || self.accept(b'E') {
            if !self.accept(b'+') {
                self.accept(b'-');
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// Passes one digit or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return Err(self.error(if rest.is_empty() {
                Reason::UnexpectedEnd
            } else {
                Reason::InvalidNumber
            }));
        }
        self.at += length;
        Ok(())
    }

    fn string(&mut self) -> Result<RawString<'a>, JsonError> {
        let start = self.at + 1;
        self.at = start;
        let mut has_escapes = false;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            self.at += plain_run(rest);
            match self.peek() {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(RawString { raw, has_escapes });
                }
                Some(b'\\') => {
                    let rest = &self.text.as_bytes()[self.at..];
                    let (_, length) = escape(rest).map_err(|reason| self.error(reason))?;
                    self.at += length;
                    has_escapes = true;
                }
                Some(_) => return Err(self.error(Reason::ControlCharacter)),
                None => return Err(self.error(Reason::UnexpectedEnd)),
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes `byte` if it stands here.
    fn accept(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn expected(&self, expected: &'static str) -> JsonError {
        let at_end = self.at >= self.text.len();
        self.error(if at_end { Reason::UnexpectedEnd } else { Reason::Syntax { expected } })
    }

    /// An error at this position, on a character's boundary.
    fn error(&self, reason: Reason) -> JsonError {
        let offset = if reason == Reason::UnexpectedEnd { self.text.len() } else { self.at };
        JsonError { offset, reason }
    }
}

/// How many bytes from the start need no attention inside a string: all but quotes, backslashes and
/// controls. Looks at eight bytes at a time: strings are most of a payload.
fn plain_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        if has_special(u64::from_le_bytes(*chunk)) {
            break;
        }
        at += 8;
    }
    let tail = bytes[at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..=0x1f));
    at + tail.count()
}

/// Whether one of eight bytes is a quote, a backslash or a control. A subtraction borrows into a byte's high
/// bit exactly where the byte was smaller (or, above such a byte, perhaps wrongly: `true` is then right
/// already); bytes of multi-byte characters have that bit set before and are masked out.
fn has_special(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let quotes = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslashes = below(word ^ (ONES * u64::from(b'\\')), 1);
    (below(word, 0x20) | quotes | backslashes) != 0
}

/// Reads the escape that `bytes` starts with: what it stands for and how long it is.
fn escape(bytes: &[u8]) -> Result<(char, usize), Reason> {
    let character = match bytes.get(1) {
        Some(b'u') => return unicode_escape(bytes),
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(_) => return Err(Reason::InvalidEscape),
        None => return Err(Reason::UnexpectedEnd),
    };
    Ok((character, 2))
}

/// Reads `\uXXXX`, or two of them where the first is the high half of a surrogate pair.
fn unicode_escape(bytes: &[u8]) -> Result<(char, usize), Reason> {
    let first = hex_digits(&bytes[2..])?;
    if !(0xd800..0xe000).contains(&first) {
        return char::from_u32(first).map(|character| (character, 6)).ok_or(Reason::LoneSurrogate);
    }
    if first >= 0xdc00 || !bytes[6..].starts_with(b"\\u") {
        return Err(Reason::LoneSurrogate);
    }
    let second = hex_digits(&bytes[8..])?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(Reason::LoneSurrogate);
    }
    let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    char::from_u32(code).map(|character| (character, 12)).ok_or(Reason::LoneSurrogate)
}

fn hex_digits(bytes: &[u8]) -> Result<u32, Reason> {
    let mut code = 0;
    for index in 0..4 {
        let byte = *bytes.get(index).ok_or(Reason::UnexpectedEnd)?;
        let digit = char::from(byte).to_digit(16).ok_or(Reason::InvalidEscape)?;
        code = code * 16 + digit;
    }
    Ok(code)
}
