//! Filters and the documents they look at.

use neo_events_domain::event_type::{EventPattern, EventType};
use neo_events_domain::filter::{FILTER_BYTES_MAX, Filter, FilterError, FilterErrorReason};
use neo_events_domain::json::{self, Json};
use neo_events_domain::matching::{LazyData, Matcher, Rule};
use neo_events_domain::violation::shortened;

use crate::campaign::{Corpus, campaign};

const FILTERS: &str = include_str!("../corpus/filters.txt");
const DOCUMENTS: &str = include_str!("../corpus/documents.txt");

/// Levels that the reader of stored events allows.
const DOCUMENT_LEVELS: usize = 10;

#[test]
fn the_corpus_is_valid() {
    for line in Corpus::of(FILTERS).lines() {
        assert!(Filter::parse(line).is_ok(), "{line}");
    }
    for line in Corpus::of(DOCUMENTS).lines() {
        assert!(json::parse(line, DOCUMENT_LEVELS).is_ok(), "{line}");
    }
}

#[test]
fn a_filter_is_refused_where_it_is_wrong_or_matching_explanation_and_index_agree() {
    let (filters, documents) = (Corpus::of(FILTERS), Corpus::of(DOCUMENTS));
    campaign("filters", 10_000, |random| {
        let (text, document) = (filters.draw(random), documents.draw(random));
        match Filter::parse(&text) {
            Err(error) => {
                check_refusal(&text, &error);
                false
            }
            Ok(filter) => {
                assert_eq!(filter.as_json(), text);
                let data = json::parse(&document, DOCUMENT_LEVELS);
                data.is_ok_and(|data| check_agreement(&filter, &document, &data))
            }
        }
    });
}

/// A refusal names a place that is there, in words of bounded length.
fn check_refusal(text: &str, error: &FilterError) {
    let is_too_long = matches!(error.reason(), FilterErrorReason::TooLong { .. });
    assert_eq!(is_too_long, text.len() > FILTER_BYTES_MAX, "{error}: {text}");
    let words = error.to_string();
    assert!(!words.is_empty() && words.len() <= 2 * text.len() + 200, "{words}");
    if let Ok(whole) = json::parse(text, json::DEPTH_LIMIT) {
        let place: Vec<_> = error.pointer().split('/').skip(1).collect();
        assert!(has_place(&whole, &place), "{error}: {text}");
    }
}

/// Whether an RFC 6901 pointer leads somewhere; of a key that is there twice, either way will do. Of a long key it has
/// the beginning.
fn has_place(json: &Json<'_>, place: &[&str]) -> bool {
    let Some((token, rest)) = place.split_first() else { return true };
    let name = token.replace("~1", "/").replace("~0", "~");
    match json {
        Json::Object(object) => {
            object.iter().any(|(key, value)| shortened(key) == name && has_place(value, rest))
        }
        Json::Array(items) => {
            let index = name.parse::<usize>().ok();
            index.and_then(|index| items.get(index)).is_some_and(|item| has_place(item, rest))
        }
        _ => false,
    }
}

/// Answers whether the filter matches.
fn check_agreement(filter: &Filter, document: &str, data: &Json<'_>) -> bool {
    let matches = filter.matches(data);
    let clauses = filter.explain(data);
    assert_eq!(clauses.iter().all(|clause| clause.holds), matches, "{filter:?} on {document}");
    for clause in clauses {
        let texts = [Some(clause.expected), clause.actual];
        assert!(
            texts.into_iter().flatten().all(|text| json::check(&text, 100).is_ok()),
            "{filter:?} on {document}"
        );
    }
    let is_admitted = filter.equalities().all(|equality| equality.admits(data));
    assert!(!matches || is_admitted, "{filter:?} on {document}");
    let mut index = Matcher::new();
    let pattern = EventPattern::try_new("*").expect("a pattern");
    index.insert(Rule { key: 1, pattern, context_id: None, filter: filter.clone() });
    let event_type = EventType::try_new("a.b").expect("a type");
    let found = index.matching(&event_type, None, &LazyData::new(document));
    assert_eq!(!found.is_empty(), matches, "{filter:?} on {document}");
    matches
}
