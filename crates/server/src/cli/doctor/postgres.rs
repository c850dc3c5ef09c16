//! What is looked at on a PostgreSQL server.

use neo_events::maintenance::{self, Backlog, Encryption, MigrationStatus, ServerFacts};

use super::{NeededKey, finding::Findings};
use crate::cli::{failure::with_causes, migrate::scopes};

/// A transaction may be open for so long before it is worth a word, in seconds.
const TRANSACTION_SECONDS_MAX: f64 = 300.0;
/// Clocks may differ by so much, in seconds: ids and due times are made by the clock of whoever makes them.
const CLOCK_DIFFERENCE_SECONDS_MAX: f64 = 2.0;
/// A node beats twice a second; one that was silent for so long is dead, or cannot be heard.
const SILENCE_SECONDS_MAX: f64 = 3.0;
/// Work may be due for so long before somebody should look, in seconds.
const WAIT_SECONDS_MAX: f64 = 60.0;

/// Looks at a server, for nodes that migrate it or not. Answers which master key is needed.
pub(super) async fn check(findings: &mut Findings, url: &str, migrates: bool) -> NeededKey {
    let facts = match maintenance::inspect_postgres(url).await {
        Ok(facts) => facts,
        Err(error) => {
            let advice = "no node can work with it; what is to be done is in docs/postgresql.md";
            findings.problem("database", with_causes(&error), advice);
            return NeededKey::default();
        }
    };
    findings.ok("database", format!("PostgreSQL {}, reachable and writable", facts.version));
    check_encryption(findings, facts.encryption);
    check_durability(findings, &facts);
    check_connections(findings, &facts);
    check_clock(findings, facts.clock_ahead_seconds);
    check_transactions(findings, &facts);
    check_migrations(findings, &facts.migrations, migrates);
    check_rights(findings, &facts, migrates);
    if facts.migrations.first().is_some_and(|database| database.applied > 0) {
        check_nodes(findings, &facts.nodes);
        check_backlog(findings, "dispatches owed", facts.owed_dispatches);
        check_backlog(findings, "deliveries", facts.queued_deliveries);
    }
    NeededKey { is_needed: facts.needs_its_key, noted: facts.noted_key }
}

fn check_encryption(findings: &mut Findings, encryption: Encryption) {
    const CHECK: &str = "encryption";
    match encryption {
        Encryption::Tls => findings.ok(CHECK, "TLS"),
        Encryption::NoneButLocal => findings.ok(CHECK, "none; the connection stays on this machine"),
        Encryption::None => findings.warning(
            CHECK,
            "none: whoever is on the way can read events and secrets",
            "let the server offer TLS, and add ?sslmode=verify-full to the URL, with sslrootcert=FILE for an authority \
             of your own",
        ),
    }
}

fn check_durability(findings: &mut Findings, facts: &ServerFacts) {
    const CHECK: &str = "durability";
    let settings = [("fsync", &facts.fsync), ("full_page_writes", &facts.full_page_writes)];
    let off: Vec<_> = settings.iter().filter(|(_, value)| *value == "off").map(|(name, _)| *name).collect();
    if off.is_empty() && facts.synchronous_commit == "off" {
        findings.warning(
            CHECK,
            "synchronous_commit off: nodes turn it on for what they write; events that your own transactions publish may \
             be lost in a crash with the rest of these",
            "turn it on in postgresql.conf, or for this database or role, or in those transactions",
        );
    } else if off.is_empty() {
        findings.ok(CHECK, "what is committed is on disk");
    } else {
        let detail = format!("{} off: a crash loses events that were acknowledged", off.join(", "));
        findings.problem(CHECK, detail, "turn it on in postgresql.conf");
    }
    if facts.autovacuum == "off" {
        let detail = "off: the queue tables will grow without end, and slow down";
        findings.problem("autovacuum", detail, "turn it on in postgresql.conf");
    } else {
        findings.ok("autovacuum", "on");
    }
}

fn check_connections(findings: &mut Findings, facts: &ServerFacts) {
    const CHECK: &str = "connections";
    let free = i64::from(facts.connections_max) - facts.connections_used;
    let needed = maintenance::node_connections_max();
    let detail =
        format!("{} of {} in use; a node has up to {needed}", facts.connections_used, facts.connections_max);
    if usize::try_from(free).is_ok_and(|free| free >= needed) {
        findings.ok(CHECK, detail);
    } else {
        findings.warning(
            CHECK,
            detail,
            "another node would not get all of its connections: raise max_connections, or end what does not need one",
        );
    }
}

fn check_clock(findings: &mut Findings, ahead_seconds: f64) {
    const CHECK: &str = "clock";
    let side = if ahead_seconds < 0.0 { "behind" } else { "ahead of" };
    let detail = format!("the database's is {:.3} s {side} this machine's", ahead_seconds.abs());
    if ahead_seconds.abs() <= CLOCK_DIFFERENCE_SECONDS_MAX {
        findings.ok(CHECK, detail);
    } else {
        findings.warning(
            CHECK,
            detail,
            "let both follow NTP: retries come early or late, and events out of order",
        );
    }
}

fn check_transactions(findings: &mut Findings, facts: &ServerFacts) {
    const CHECK: &str = "transactions";
    let scope =
        if facts.sees_all_transactions { "" } else { " of this role; pg_read_all_stats would show all" };
    match &facts.oldest_transaction {
        Some(oldest) if oldest.seconds > TRANSACTION_SECONDS_MAX => findings.warning(
            CHECK,
            format!("one is open for {}: {}", span(oldest.seconds), oldest.who),
            "end it: until then dead rows stay in the queue tables, and every claim takes longer",
        ),
        Some(oldest) => findings.ok(CHECK, format!("the oldest is open for {}{scope}", span(oldest.seconds))),
        None => findings.ok(CHECK, format!("none is open{scope}")),
    }
}

fn check_migrations(findings: &mut Findings, migrations: &[MigrationStatus], migrates: bool) {
    let newer = migrations.iter().find(|status| status.applied > status.known);
    let behind = migrations.iter().filter(|status| status.is_behind()).count();
    if behind > 0 && !migrates {
        let detail = format!("{behind} of {} behind", scopes(migrations.len()));
        findings.problem(
            "migrations",
            detail,
            "run neo-events migrate up: no node starts before, nor migrates",
        );
    } else {
        migrations_told(findings, behind, migrations.len());
    }
    if let Some(newer) = newer {
        let detail = format!("{} is of a later version of this program", newer.scope);
        findings.warning("migrations", detail, "use that version for this command too");
    }
}

/// The same words for both kinds of database.
pub(super) fn migrations_told(findings: &mut Findings, behind: usize, count: usize) {
    if behind == 0 {
        findings.ok("migrations", format!("up to date, {}", scopes(count)));
    } else {
        findings.warning(
            "migrations",
            format!("{behind} of {} behind", scopes(count)),
            "run neo-events migrate up; serve does it too, unless it is told --no-migrate",
        );
    }
}

fn check_rights(findings: &mut Findings, facts: &ServerFacts, migrates: bool) {
    const CHECK: &str = "rights";
    if !facts.missing_rights.is_empty() {
        let detail = format!("this role lacks {}", facts.missing_rights.join("; "));
        findings.problem(CHECK, detail, "grant them: docs/postgresql.md has the statements");
    } else if facts.can_create_schemas {
        findings.ok(CHECK, "all that a node needs");
    } else if migrates {
        findings.problem(
            CHECK,
            "this role may not create schemas in the database, as a node that migrates it must",
            "grant create on the database; or run neo-events migrate up with a role that has it, and serve with \
             --no-migrate (NEO_EVENTS_MIGRATE=off)",
        );
    } else {
        findings.warning(
            CHECK,
            "all but one: this role may not create schemas in the database",
            "grant create on the database, or make tenants with a role that has it",
        );
    }
}

fn check_nodes(findings: &mut Findings, nodes: &[(String, f64)]) {
    const CHECK: &str = "nodes";
    let silent = nodes.iter().find(|(_, seconds)| *seconds > SILENCE_SECONDS_MAX);
    match (nodes.len(), silent) {
        (0, _) => findings.warning(
            CHECK,
            "none is at work: what is published waits",
            "start one with neo-events serve",
        ),
        (_, Some((name, seconds))) => findings.warning(
            CHECK,
            format!("{name} has not been heard for {}", span(*seconds)),
            "if it did not just end: is it alone, and cut off from the database?",
        ),
        (count, None) => {
            let is_left = |pass| nodes.iter().all(|(name, _)| maintenance::is_left_to_others(name, pass));
            let nobody = match (is_left(maintenance::DISPATCH), is_left(maintenance::DELIVER)) {
                (false, false) => return findings.ok(CHECK, format!("{count} at work")),
                (true, false) => "dispatches: events wait",
                (false, true) => "delivers: deliveries wait",
                (true, true) => "dispatches or delivers: what is published waits",
            };
            findings.warning(
                CHECK,
                format!("{count} at work, of which none {nobody}"),
                "start one with the roles that are missing, dispatch or deliver",
            );
        }
    }
}

fn check_backlog(findings: &mut Findings, check: &'static str, backlog: Backlog) {
    let or_more = if backlog.count >= Backlog::COUNTED_MAX { " or more" } else { "" };
    let detail = format!("{}{or_more}", backlog.count);
    match backlog.oldest_seconds {
        Some(seconds) if seconds > WAIT_SECONDS_MAX => findings.warning(
            check,
            format!("{detail}, the oldest due for {}", span(seconds)),
            "are there nodes for this work, and do they keep up? see their logs",
        ),
        Some(seconds) if seconds > 0.0 => {
            findings.ok(check, format!("{detail}, the oldest due for {}", span(seconds)));
        }
        _ => findings.ok(check, detail),
    }
}

/// So many seconds, in the largest fitting unit.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Status, *};

    fn found(check: impl FnOnce(&mut Findings)) -> (Status, String) {
        let mut findings = Findings::default();
        check(&mut findings);
        let finding = &findings.all()[0];
        (finding.status, finding.detail.clone())
    }

    #[test]
    fn what_waits_for_long_is_told() {
        let check = |count, oldest_seconds| {
            found(|findings| check_backlog(findings, "x", Backlog { count, oldest_seconds }))
        };
        assert_eq!(check(0, None), (Status::Ok, "0".into()));
        assert_eq!(check(3, Some(-20.0)), (Status::Ok, "3".into()));
        assert_eq!(check(3, Some(59.0)), (Status::Ok, "3, the oldest due for 59.0 s".into()));
        let waits = (Status::Warning, "100000 or more, the oldest due for 2 h".into());
        assert_eq!(check(Backlog::COUNTED_MAX, Some(7300.0)), waits);
    }

    #[test]
    fn clocks_and_nodes_have_limits() {
        let clock = |ahead| found(|findings| check_clock(findings, ahead));
        assert_eq!(clock(-1.9).0, Status::Ok);
        assert_eq!(clock(-2.5), (Status::Warning, "the database's is 2.500 s behind this machine's".into()));
        let nodes = |nodes: &[(String, f64)]| found(|findings| check_nodes(findings, nodes));
        assert_eq!(nodes(&[]).0, Status::Warning);
        assert_eq!(nodes(&[("a".into(), 0.4), ("b".into(), 0.1)]), (Status::Ok, "2 at work".into()));
        assert_eq!(nodes(&[("a".into(), 0.4), ("b".into(), 4.0)]).0, Status::Warning);
        let lacking = |names: &[&str]| {
            let nodes: Vec<_> = names.iter().map(|name| ((*name).to_owned(), 0.1)).collect();
            found(|findings| check_nodes(findings, &nodes))
        };
        let (status, detail) = lacking(&["a without dispatch and deliver", "b without dispatch"]);
        assert_eq!(status, Status::Warning);
        assert!(detail.contains("none dispatches"), "{detail}");
        assert_eq!(lacking(&["a without dispatch", "b without deliver"]).0, Status::Ok);
    }
}
