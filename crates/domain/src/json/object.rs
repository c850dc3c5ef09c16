//! The members of a JSON object, in the order of the text.
//!
//! Looking up a key must stay cheap for an object with thousands of members (a filter does it once per
//! clause and rule), so a large object carries an index of its keys; a small one is faster without.

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use super::Json;

/// Up to so many members a search from the end beats the index.
const UNINDEXED_MEMBERS_MAX: usize = 16;

/// The members of an object. Of duplicate keys the last counts, for [`Object::get`] and for equality.
#[derive(Clone, Debug, Default)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, Json<'a>)>,
    /// Positions in `members`, ordered by key and then by position; empty for a small object.
    by_key: Box<[u32]>,
    /// Different keys. Counted once: objects are compared with each element of a list.
    keys: usize,
}

impl<'a> Object<'a> {
    /// An object with these members, in this order.
    pub fn new(members: Vec<(Cow<'a, str>, Json<'a>)>) -> Self {
        let by_key = match u32::try_from(members.len()) {
            Ok(count) if members.len() > UNINDEXED_MEMBERS_MAX => {
                let mut positions: Box<[u32]> = (0..count).collect();
                positions.sort_by(|a, b| key_at(&members, *a).cmp(key_at(&members, *b)));
                positions
            }
            _ => Box::default(),
        };
        let keys = if by_key.is_empty() {
            let is_last = |(at, (key, _)): &(usize, &(Cow<'_, str>, _))| {
                members[at + 1..].iter().all(|(later, _)| later != key)
            };
            members.iter().enumerate().filter(is_last).count()
        } else {
            by_key.chunk_by(|one, other| key_at(&members, *one) == key_at(&members, *other)).count()
        };
        Self { members, by_key, keys }
    }

    /// The member `key`; of duplicates the last.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        if self.by_key.is_empty() {
            return self.members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value);
        }
        let behind = self.by_key.partition_point(|position| key_at(&self.members, *position) <= key);
        let position = *self.by_key.get(behind.checked_sub(1)?)?;
        let (name, value) = &self.members[position as usize];
        (name == key).then_some(value)
    }

    /// Every member in the order of the text, duplicates included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.members.iter().map(|(key, value)| (&**key, value))
    }

    /// How many members the text has, duplicates included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members that count: of duplicates the last.
    fn effective(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.iter().filter(|(key, value)| self.get(key).is_some_and(|last| std::ptr::eq(last, *value)))
    }

    pub(super) fn into_owned(self) -> Object<'static> {
        let own = |(key, value): (Cow<'a, str>, Json<'a>)| (Cow::Owned(key.into_owned()), value.into_owned());
        Object { members: self.members.into_iter().map(own).collect(), by_key: self.by_key, keys: self.keys }
    }
}

fn key_at<'m>(members: &'m [(Cow<'_, str>, Json<'_>)], position: u32) -> &'m str {
    &members[position as usize].0
}

impl PartialEq for Object<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys && self.effective().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl Eq for Object<'_> {}

impl Hash for Object<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A sum, because the order of members must not matter.
        let sum = self.effective().fold(0_u64, |sum, member| {
            let mut hasher = DefaultHasher::new();
            member.hash(&mut hasher);
            sum.wrapping_add(hasher.finish())
        });
        state.write_u64(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_objects_have_as_many_keys_whatever_is_repeated() {
        for count in [0, 1, 7, UNINDEXED_MEMBERS_MAX, UNINDEXED_MEMBERS_MAX + 1, 40] {
            let object = |names: &[usize]| {
                Object::new(
                    names.iter().map(|n| (Cow::Owned(n.to_string()), Json::Bool(n % 2 == 0))).collect(),
                )
            };
            let once: Vec<_> = (0..count).collect();
            let repeated: Vec<_> = once.iter().chain(once.iter().rev()).copied().collect();
            assert_eq!((object(&once).keys, object(&repeated).keys), (count, count));
            assert!(object(&once) == object(&repeated));
            assert!(object(&once) != object(&[&once[..], &[count]].concat()));
        }
    }
}
