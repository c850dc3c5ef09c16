//! The reader: recursive descent over the bytes of a text, one method for each production of the grammar, generic over
//! what it leaves behind, so that a verdict costs no tree.

use std::borrow::Cow;

use super::{DEPTH_LIMIT, Json, JsonError, Kind, Member, Number, Object, Reason};

/// What a reading leaves behind: a tree, or just the verdict.
pub(super) trait Output<'a> {
    type Value;
    type Items: Default;
    type Members: Default;

    fn scalar(scalar: Scalar<'a>) -> Self::Value;
    fn item(items: &mut Self::Items, value: Self::Value);
    fn member(members: &mut Self::Members, key: RawString<'a>, value: Self::Value, raw: &'a str);
    fn array(items: Self::Items) -> Self::Value;
    fn object(members: Self::Members) -> Self::Value;
}

/// A scalar as it stands in the text.
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    String(RawString<'a>),
}

/// The inside of a valid string literal.
pub(super) struct RawString<'a> {
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

/// Reads into a [`Json`].
pub(super) struct Tree;

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

    fn member(members: &mut Self::Members, key: RawString<'a>, value: Json<'a>, _raw: &'a str) {
        members.push((key.unescape(), value));
    }

    fn array(items: Self::Items) -> Json<'a> {
        Json::Array(items)
    }

    fn object(members: Self::Members) -> Json<'a> {
        Json::Object(Object::new(members))
    }
}

/// Reads into nothing but the kind.
pub(super) struct Verdict;

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

    fn member((): &mut (), _key: RawString<'a>, _value: Kind, _raw: &'a str) {}

    fn array((): ()) -> Kind {
        Kind::Array
    }

    fn object((): ()) -> Kind {
        Kind::Object
    }
}

/// Reads an object into its members, each with its own text; anything else into nothing.
pub(super) struct Members;

impl<'a> Output<'a> for Members {
    type Value = Option<Vec<Member<'a>>>;
    type Items = ();
    type Members = Vec<Member<'a>>;

    fn scalar(_scalar: Scalar<'a>) -> Self::Value {
        None
    }

    fn item((): &mut (), _value: Self::Value) {}

    fn member(members: &mut Self::Members, key: RawString<'a>, _value: Self::Value, raw: &'a str) {
        members.push((key.unescape(), raw));
    }

    fn array((): ()) -> Self::Value {
        None
    }

    fn object(members: Self::Members) -> Self::Value {
        Some(members)
    }
}

/// Reads a whole text.
pub(super) fn read<'a, O: Output<'a>>(text: &'a str, depth_max: usize) -> Result<O::Value, JsonError> {
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
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
    pub(super) depth_max: usize,
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
            let start = self.at;
            let value = self.value::<O>(depth)?;
            O::member(&mut members, key, value, &self.text[start..self.at]);
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

    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
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
    pub(super) fn error(&self, reason: Reason) -> JsonError {
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
