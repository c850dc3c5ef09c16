//! This node's session: what its claims hang on.
//!
//! The session is a row, and every half second a beat of it is written, on a connection of its own, so that a node with
//! much to do does not look dead. Whoever finds one that has been silent for three seconds removes it and frees what it had claimed:
//! within five seconds its work goes on elsewhere. A node that was only asleep learns of it by its next beat, begins a
//! new session, and cannot settle what it no longer holds, for the tokens on those rows are gone.
//!
//! A beat is a time by the database's clock, and that may be set. So it only says that there was a beat; since when
//! there was no other one is measured by who listens, with a clock that is never set.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use neo_events_domain::{Timestamp, tenant::Schema};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::{
    columns::Columns,
    conn::{Conn, Connection, Param},
    failure::Failure,
    open::{Address, OpenError},
    sql,
};

/// How often a session beats.
const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a session may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Beats further apart say that the database was away, or this process.
const BEAT_PAUSE_MAX: Duration = Duration::from_millis(1500);
/// How long this session must have been beating regularly before it takes others for dead.
const JUDGE_AFTER: Duration = Duration::from_secs(3);
/// How long ago a beat may have been sent if nobody is to have given to others meanwhile what the session was granted. Of one
/// that was sent before, it is asked whether it is there, and the answer may take as long as it may be silent.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// How long to ask whether it is there, in all: publishers wait for it whose events are stored already.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a beat may take before another connection is tried.
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);

/// A running session.
pub(crate) struct Session {
    no: AtomicI64,
    name: String,
    rhythm: Mutex<Rhythm>,
    others: Mutex<Others>,
    /// Connections that it has lost.
    losses: AtomicU64,
    beats: Mutex<Beats>,
}

/// The numbers of this session's beats.
#[derive(Clone, Copy)]
struct Beats {
    /// The last one that is known to have been written.
    written: i64,
    /// The last one that was begun: it may be there all the same.
    begun: i64,
}

/// How regularly this session has been beating.
struct Rhythm {
    last: Instant,
    /// The last one was written after this, and others count their silence from when they heard it.
    heard_since: Instant,
    steady_since: Instant,
}

/// What was heard of each of the other sessions that there are.
#[derive(Default)]
struct Others(HashMap<i64, Heard>);

/// A session's last beat, and since when it is known here that there was no other one.
#[derive(Clone, Copy)]
struct Heard {
    beat_at: Timestamp,
    since: Instant,
}

impl Others {
    /// Notes the beats of all that there are now.
    fn hear(&mut self, beats: &[(i64, Timestamp)], now: Instant) {
        let heard = |(no, beat_at): &(i64, Timestamp)| {
            let known = self.0.get(no).filter(|known| known.beat_at == *beat_at);
            (*no, known.copied().unwrap_or(Heard { beat_at: *beat_at, since: now }))
        };
        self.0 = beats.iter().map(heard).collect();
    }

    /// Who has been silent for too long, and its last beat; in an order, so that nodes that bury the same ones do not
    /// wait for each other.
    fn silent(&self, now: Instant) -> (Vec<i64>, Vec<Timestamp>) {
        let silent = self.0.iter().filter(|(_, heard)| now - heard.since >= SILENCE_MAX);
        let mut silent: Vec<_> = silent.map(|(no, heard)| (*no, heard.beat_at)).collect();
        silent.sort_unstable();
        silent.into_iter().unzip()
    }
}

impl Session {
    pub(crate) async fn begin(conn: &Connection, name: String) -> Result<Self, OpenError> {
        let no = begin(conn, &name).await?;
        let rhythm =
            Rhythm { last: Instant::now(), heard_since: Instant::now(), steady_since: Instant::now() };
        Ok(Self {
            no: AtomicI64::new(no),
            name,
            rhythm: Mutex::new(rhythm),
            others: Mutex::default(),
            losses: AtomicU64::new(0),
            beats: Mutex::new(Beats { written: 0, begun: 0 }),
        })
    }

    /// How often its connection was lost: what was known before may be of another server, which the present one has
    /// replaced without having all that it had.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// What leases are written with.
    pub(crate) fn no(&self) -> i64 {
        self.no.load(Ordering::Relaxed)
    }

    /// Whether what was granted to a session is its own still: it is this one, and was heard lately, or is there when it is
    /// asked for. An answer that was seconds on its way, over a connection that hung, may grant what others have been
    /// given since.
    pub(crate) async fn holds_what_was_granted_to(
        &self,
        no: i64,
        connection: impl Future<Output = Result<Conn, Failure>>,
    ) -> bool {
        if self.no() != no {
            return false;
        }
        if self.rhythm().heard_since.elapsed() < HEARD_WITHIN {
            return true;
        }
        let is_there = async {
            let (conn, admin) = (connection.await?, Schema::admin());
            conn.prepare(sql::SESSIONS_IS_THERE, &admin).await?;
            let asked_at = Instant::now();
            let row = conn.query_opt(sql::SESSIONS_IS_THERE, &admin, &[&no]).await?;
            Ok::<_, Failure>(row.is_some() && asked_at.elapsed() < SILENCE_MAX)
        };
        match timeout(ASK_TIMEOUT, is_there).await {
            Ok(Ok(is_there)) => is_there,
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "whether this node's session is there is not known");
                false
            }
            Err(_) => false,
        }
    }

    /// Notes a beat that was sent then, and is written.
    fn has_beaten(&self, sent_at: Instant) {
        let (mut rhythm, now) = (self.rhythm(), Instant::now());
        rhythm.heard_since = sent_at;
        if now - rhythm.last > BEAT_PAUSE_MAX {
            rhythm.steady_since = now;
        }
        rhythm.last = now;
    }

    /// Whether the database has been there long enough for everybody else to have been heard. After it was away, the
    /// first one back must not take those for dead who are still on their way.
    fn may_judge(&self) -> bool {
        let rhythm = self.rhythm();
        rhythm.last.elapsed() <= BEAT_PAUSE_MAX && rhythm.steady_since.elapsed() >= JUDGE_AFTER
    }

    /// No number is used twice, also if it is not known what came of it.
    fn next_beat(&self) -> Beats {
        let mut beats = self.beats();
        beats.begun += 1;
        *beats
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rhythm(&self) -> MutexGuard<'_, Rhythm> {
        self.rhythm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Beats until it is dropped.
    pub(crate) async fn keep_alive(self: Arc<Self>, address: Address) {
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let to = address.by_ends_of_keys(BEAT_TIMEOUT, BEAT_TIMEOUT);
            let opened = timeout(BEAT_TIMEOUT, Connection::open(&to)).await;
            let Ok(Ok(conn)) = opened else {
                sleep(BEAT_INTERVAL).await;
                continue;
            };
            let failure = loop {
                beats.tick().await;
                match timeout(BEAT_TIMEOUT, self.beat(&conn)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => break failure.to_string(),
                    Err(_) => break "it took too long".to_owned(),
                }
            };
            self.losses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(failure, "this node could not be heard; trying again");
        }
    }

    async fn beat(&self, conn: &Connection) -> Result<(), Failure> {
        let (beats, sent_at) = (self.next_beat(), Instant::now());
        let params: [Param<'_>; 3] = [&self.no(), &beats.written, &beats.begun];
        let beaten: i64 = conn.query_one(sql::SESSIONS_BEAT, &Schema::admin(), &params).await?.try_get(0)?;
        if beaten > 0 {
            self.beats().written = beats.begun;
        } else {
            tracing::warn!(
                "this node was not heard of for too long: what it had claimed was given to others"
            );
            self.no.store(begin(conn, &self.name).await?, Ordering::Relaxed);
        }
        self.has_beaten(sent_at);
        self.listen(conn).await
    }

    /// Hears who else is there.
    async fn listen(&self, conn: &Connection) -> Result<(), Failure> {
        let rows = conn.query(sql::SESSIONS_OTHERS, &Schema::admin(), &[&self.no()]).await?;
        let mut beats = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut columns = Columns::of(row);
            beats.push((columns.take()?, columns.time()?));
        }
        self.others().hear(&beats, Instant::now());
        Ok(())
    }

    /// Ends the sessions of nodes that died and frees what they held. Answers whether there were any.
    pub(crate) async fn bury_others(&self, conn: &mut Conn) -> Result<bool, Failure> {
        let (silent, beats) = self.others().silent(Instant::now());
        if silent.is_empty() || !self.may_judge() {
            return Ok(false);
        }
        let admin = Schema::admin();
        let tx = conn.begin().await?;
        tx.query(sql::SESSIONS_LOCK_SILENT, &admin, &[&silent]).await?;
        // A statement of its own: a beat that somebody's lock was waited for with is seen.
        let dead = tx.query(sql::SESSIONS_REMOVE_DEAD, &admin, &[&self.no(), &silent, &beats]).await?;
        if dead.is_empty() {
            tx.rollback().await?;
            return Ok(false);
        }
        let mut nos = Vec::new();
        for row in &dead {
            nos.push(row.try_get::<_, i64>(0)?);
            tracing::warn!(node = row.try_get::<_, &str>(1)?, "a node died; others take over its work");
        }
        free(&tx, &nos).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends this session, and frees what it still holds.
    pub(crate) async fn end(&self, conn: &mut Conn) -> Result<(), Failure> {
        let tx = conn.begin().await?;
        tx.execute(sql::SESSIONS_END, &Schema::admin(), &[&self.no()]).await?;
        free(&tx, &[self.no()]).await?;
        tx.commit().await
    }
}

async fn begin(conn: &Connection, name: &str) -> Result<i64, Failure> {
    Ok(conn.query_one(sql::SESSIONS_BEGIN, &Schema::admin(), &[&name]).await?.try_get(0)?)
}

async fn free(conn: &Connection, sessions: &[i64]) -> Result<(), Failure> {
    let admin = Schema::admin();
    conn.execute(sql::SESSIONS_FREE_DISPATCHES, &admin, &[&sessions]).await?;
    conn.execute(sql::SESSIONS_FREE_DELIVERIES, &admin, &[&sessions]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn silence_is_measured_by_who_listens() {
        let (mut others, began) = (Others::default(), Instant::now());
        let after = |millis| began + Duration::from_millis(millis);
        let silent = |others: &Others, millis| others.silent(after(millis)).0;
        others.hear(&[(1, at(100)), (2, at(100))], after(0));
        assert!(silent(&others, 2999).is_empty(), "however old a beat looks at first, it was heard only now");
        // The clock goes an hour ahead, and comes back again.
        others.hear(&[(1, at(3701)), (2, at(100))], after(1000));
        others.hear(&[(1, at(102)), (2, at(100)), (3, at(9000))], after(2000));
        assert!(silent(&others, 2999).is_empty());
        assert_eq!(others.silent(after(3000)), (vec![2], vec![at(100)]));
        assert_eq!(silent(&others, 4999), [2], "any other beat is a beat");
        others.hear(&[(1, at(102)), (2, at(101)), (3, at(9000))], after(4999));
        assert_eq!(silent(&others, 5000), [1, 3], "also one whose last beat lies ahead");
        others.hear(&[(2, at(102))], after(5500));
        assert_eq!(others.0.len(), 1, "who is gone is forgotten");
    }
}
