//! Names that become parts of paths, schemas, files and headers: event types, patterns, tenants, scopes.

use neo_events_domain::api_key::{ApiKeyDraft, Scope};
use neo_events_domain::event_type::{EventPattern, EventType};
use neo_events_domain::id::{EventId, Id};
use neo_events_domain::tenant::{Schema, TenantDraft};
use neo_events_domain::{Timestamp, Uuid};
use regex::Regex;

use crate::campaign::{Corpus, campaign};

const NAMES: &str = include_str!("../corpus/names.txt");

fn pattern(text: &str) -> Regex {
    Regex::new(&format!(r"\A(?:{text})\z")).expect("a pattern")
}

#[test]
fn event_types_and_patterns_are_what_the_specification_says() {
    let names = Corpus::of(NAMES);
    let part = "[a-z][a-z0-9_]{0,49}";
    let type_form = pattern(&format!(r"{part}\.{part}"));
    let pattern_form = pattern(&format!(r"\*|{part}\.\*|{part}\.{part}"));
    campaign("event types", 10_000, |random| {
        let text = names.draw(random);
        let event_type = EventType::try_new(&text);
        // Both parts of fifty are one too long together with their dot.
        assert_eq!(event_type.is_ok(), type_form.is_match(&text) && text.len() <= 100, "{text:?}");
        let pattern = EventPattern::try_new(&text);
        assert_eq!(pattern.is_ok(), pattern_form.is_match(&text) && text.len() <= 100, "{text:?}");
        match event_type {
            Ok(event_type) => {
                assert_eq!(format!("{}.{}", event_type.category(), event_type.action()), text);
                assert!(pattern.is_ok_and(|pattern| pattern.matches(&event_type)), "{text:?}");
            }
            Err(error) => assert!(error.to_string().len() < 200, "{error}"),
        }
        type_form.is_match(&text)
    });
}

#[test]
fn a_tenants_name_never_leads_out_of_its_folder_or_its_schema() {
    let names = Corpus::of(NAMES);
    let slug = "[a-z][a-z0-9_]{0,47}";
    let slug_form = pattern(slug);
    let header_form = pattern(&format!("admin|{slug}|region:{slug}"));
    let schema_form = pattern(&format!("admin|tenant_{slug}|shared_{slug}"));
    campaign("tenants", 10_000, |random| {
        let text = names.draw(random);
        let reached = Schema::from_tenant_header(&text);
        assert_eq!(reached.is_ok(), header_form.is_match(&text), "{text:?}");
        assert_eq!(text.parse::<Schema>().is_ok(), schema_form.is_match(&text), "{text:?}");
        if let Ok(schema) = reached {
            assert!(schema_form.is_match(schema.as_str()), "{text:?} is {schema}");
            assert_eq!(schema.tenant_header(), text);
            assert_eq!(schema.as_str().parse::<Schema>().as_ref(), Ok(&schema));
        }
        let draft = TenantDraft { slug: Some(text.clone()), ..TenantDraft::default() };
        let made = draft.validate(Timestamp::UNIX_EPOCH);
        assert_eq!(made.is_ok(), text != "admin" && slug_form.is_match(&text), "{text:?}");
        made.is_ok()
    });
}

#[test]
fn a_key_gets_the_scopes_it_names_and_no_other() {
    let names = Corpus::of(NAMES);
    campaign("scopes", 10_000, |random| {
        let asked: Vec<String> = (0..random.below(4))
            .map(|_| match random.below(3) {
                0 => names.draw(random),
                _ => Scope::ALL[random.below(Scope::ALL.len())].to_string(),
            })
            .collect();
        let draft = ApiKeyDraft { name: "k".into(), scopes: Some(asked.clone()), ..ApiKeyDraft::default() };
        let schema = Schema::tenant("acme").expect("a slug");
        let made = draft.validate(Id::new(Timestamp::UNIX_EPOCH, [0; 10]), schema, Timestamp::UNIX_EPOCH);
        let known = |name: &String| Scope::ALL.iter().any(|scope| scope.as_str() == name);
        assert_eq!(made.is_ok(), !asked.is_empty() && asked.iter().all(known), "{asked:?}");
        if let Ok(key) = made {
            let is_admin = asked.iter().any(|name| name == "admin");
            for scope in Scope::ALL {
                let is_asked = asked.iter().any(|name| name == scope.as_str());
                assert_eq!(key.scopes.allow(scope), is_asked || is_admin, "{scope} of {asked:?}");
            }
            return true;
        }
        false
    });
}

#[test]
fn an_id_reads_as_the_uuid_it_is_or_not_at_all() {
    let ids = Corpus::of(
        "01930000-0000-7000-8000-0000000000aa\n0193000000007000800000000000000a\n\
         urn:uuid:01930000-0000-7000-8000-0000000000aa\n{01930000-0000-7000-8000-0000000000aa}",
    );
    campaign("ids", 10_000, |random| {
        let text = ids.draw(random);
        let read: Result<EventId, _> = text.parse();
        if let Ok(id) = read {
            let digits: String = text
                .to_ascii_lowercase()
                .trim_start_matches("urn:uuid:")
                .chars()
                .filter(char::is_ascii_hexdigit)
                .collect();
            assert_eq!(Ok(id.uuid()), Uuid::try_parse(&digits), "{text:?}");
            assert_eq!(digits.len(), 32, "{text:?}");
        }
        read.is_ok()
    });
}
