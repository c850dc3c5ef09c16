//! Names of what happened, `category.action`, and the patterns that subscriptions select them by.
//!
//! Both are parsed once, at the edge; a value of these types is always well formed. Whether a type has an
//! entry in the catalogue is not asked here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Characters that a category or an action may have.
pub const PART_CHARS_MAX: usize = 50;
/// Characters that a whole event type may have, its dot included.
pub const EVENT_TYPE_CHARS_MAX: usize = 100;

/// A type of event, `category.action`: exactly one dot, each part `[a-z][a-z0-9_]*`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

/// The part of an event type before its dot. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Category(Arc<str>);

/// Which event types a subscription wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventPattern {
    /// One type: `user.created`.
    Exact(EventType),
    /// Every action of a category: `user.*`.
    Category(Category),
    /// Every event: `*`.
    All,
}

/// Which part of an event type a complaint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Before the dot.
    Category,
    /// Behind the dot.
    Action,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Category => "category",
            Self::Action => "action",
        })
    }
}

/// Why a text names no event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// The whole is longer than [`EVENT_TYPE_CHARS_MAX`].
    #[error("event type has {chars} characters, at most {EVENT_TYPE_CHARS_MAX} are allowed")]
    TooLong {
        /// Characters it has.
        chars: usize,
    },
    /// There is no dot, or more than one.
    #[error("event type must be `category.action` with exactly one dot, found {dots}")]
    Dots {
        /// Dots it has.
        dots: usize,
    },
    /// Nothing stands before or behind the dot.
    #[error("{part} is empty")]
    EmptyPart {
        /// Which part.
        part: Part,
    },
    /// A part is longer than [`PART_CHARS_MAX`].
    #[error("{part} has {chars} characters, at most {PART_CHARS_MAX} are allowed")]
    PartTooLong {
        /// Which part.
        part: Part,
        /// Characters it has.
        chars: usize,
    },
    /// A part begins with something other than a lower-case letter.
    #[error("{part} must begin with a letter a-z, found {found:?}")]
    FirstCharacter {
        /// Which part.
        part: Part,
        /// What it begins with.
        found: char,
    },
    /// A part contains something other than lower-case letters, digits and underscores.
    #[error("{part} may contain a-z, 0-9 and _ only, found {found:?}")]
    Character {
        /// Which part.
        part: Part,
        /// The first character that is not allowed.
        found: char,
    },
}

impl EventType {
    /// Reads `category.action`.
    pub fn try_new(text: &str) -> Result<Self, EventTypeError> {
        let (category, action) = split(text)?;
        check_part(Part::Category, category)?;
        check_part(Part::Action, action)?;
        Ok(Self(text.into()))
    }

    /// The whole, `category.action`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the dot.
    pub fn category(&self) -> &str {
        self.parts().0
    }

    /// What stands behind the dot.
    pub fn action(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('.').expect("an event type has a dot")
    }
}

impl Category {
    /// Reads a category that stands alone.
    pub fn try_new(text: &str) -> Result<Self, EventTypeError> {
        check_part(Part::Category, text)?;
        Ok(Self(text.into()))
    }

    /// The category's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EventPattern {
    /// Reads `category.action`, `category.*` or `*`.
    pub fn try_new(text: &str) -> Result<Self, EventTypeError> {
        if text == "*" {
            return Ok(Self::All);
        }
        match split(text)? {
            (category, "*") => Category::try_new(category).map(Self::Category),
            _ => EventType::try_new(text).map(Self::Exact),
        }
    }

    /// Whether an event of this type is wanted.
    pub fn matches(&self, event_type: &EventType) -> bool {
        match self {
            Self::Exact(wanted) => wanted == event_type,
            Self::Category(category) => category.as_str() == event_type.category(),
            Self::All => true,
        }
    }
}

/// Splits at the only dot.
fn split(text: &str) -> Result<(&str, &str), EventTypeError> {
    // Bytes first: they cost nothing to count, and characters are never more.
    if text.len() > EVENT_TYPE_CHARS_MAX {
        let chars = text.chars().count();
        if chars > EVENT_TYPE_CHARS_MAX {
            return Err(EventTypeError::TooLong { chars });
        }
    }
    match text.split_once('.') {
        Some((category, action)) if !action.contains('.') => Ok((category, action)),
        _ => Err(EventTypeError::Dots { dots: text.matches('.').count() }),
    }
}

fn check_part(part: Part, text: &str) -> Result<(), EventTypeError> {
    let Some(first) = text.chars().next() else {
        return Err(EventTypeError::EmptyPart { part });
    };
    if !first.is_ascii_lowercase() {
        return Err(EventTypeError::FirstCharacter { part, found: first });
    }
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_';
    if let Some(found) = text.chars().find(|c| !allowed(c)) {
        return Err(EventTypeError::Character { part, found });
    }
    if text.len() > PART_CHARS_MAX {
        return Err(EventTypeError::PartTooLong { part, chars: text.len() });
    }
    Ok(())
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventType({})", self.0)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Category({})", self.0)
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(event_type) => write!(f, "{event_type}"),
            Self::Category(category) => write!(f, "{category}.*"),
            Self::All => f.write_str("*"),
        }
    }
}

impl FromStr for EventType {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, EventTypeError> {
        Self::try_new(text)
    }
}

impl FromStr for EventPattern {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, EventTypeError> {
        Self::try_new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_category_dot_action() {
        let part = "a".repeat(PART_CHARS_MAX);
        let shorter = "a".repeat(PART_CHARS_MAX - 1);
        for text in
            ["user.created", "a.b", "a1_.b_2", &format!("{part}.{shorter}"), &format!("{shorter}.{part}")]
        {
            let event_type = EventType::try_new(text).unwrap();
            assert_eq!(format!("{}.{}", event_type.category(), event_type.action()), text);
            assert_eq!((event_type.as_str(), event_type.to_string().as_str()), (text, text));
            assert_eq!(text.parse(), Ok(event_type));
        }
    }

    #[test]
    fn other_texts_are_refused_and_the_refusal_says_why() {
        let check = |text: &str, complaint: &str| {
            assert_eq!(EventType::try_new(text).unwrap_err().to_string(), complaint, "{text}");
            if text != "user.*" {
                assert_eq!(EventPattern::try_new(text).unwrap_err().to_string(), complaint, "{text}");
            }
        };
        let dots = |n| format!("event type must be `category.action` with exactly one dot, found {n}");
        check("", &dots(0));
        check("organization", &dots(0));
        check("org-created", &dots(0));
        check("user.updated.now", &dots(2));
        check("User.Created", "category must begin with a letter a-z, found 'U'");
        check("user.Created", "action must begin with a letter a-z, found 'C'");
        check("user.*", "action must begin with a letter a-z, found '*'");
        check("*.created", "category must begin with a letter a-z, found '*'");
        check("1user.created", "category must begin with a letter a-z, found '1'");
        check("_user.created", "category must begin with a letter a-z, found '_'");
        check("user.creaTed", "action may contain a-z, 0-9 and _ only, found 'T'");
        check("üser.created", "category must begin with a letter a-z, found 'ü'");
        check(" user.created", "category must begin with a letter a-z, found ' '");
        check("user.created\n", "action may contain a-z, 0-9 and _ only, found '\\n'");
        check(".created", "category is empty");
        check("user.", "action is empty");
        check(&format!("{}.b", "a".repeat(51)), "category has 51 characters, at most 50 are allowed");
        check(&format!("b.{}", "a".repeat(51)), "action has 51 characters, at most 50 are allowed");
        let long = format!("{0}.{0}", "a".repeat(50));
        check(&long, "event type has 101 characters, at most 100 are allowed");
    }

    #[test]
    fn patterns_match_a_type_a_category_or_everything() {
        let check = |pattern: &str, event_type: &str, expected: bool| {
            let parsed = EventPattern::try_new(pattern).unwrap();
            assert_eq!(parsed.to_string(), pattern);
            assert_eq!(
                parsed.matches(&EventType::try_new(event_type).unwrap()),
                expected,
                "{pattern} {event_type}"
            );
        };
        check("user.created", "user.created", true);
        check("user.created", "user.create", false);
        check("user.*", "user.created", true);
        check("user.*", "users.created", false);
        check("*", "user.created", true);
    }

    #[test]
    fn patterns_have_no_other_wildcards() {
        for text in ["**", "*.*", "user*", "user.cre*", "*.created", "", "user.**", " *"] {
            assert!(EventPattern::try_new(text).is_err(), "{text}");
        }
    }
}
