//! Ledgers at both ends, compared when something bad is over.

use std::collections::HashSet;

use crate::{
    process::{
        Address, Client, Receiver,
        load::until,
        publishers::{Publishers, until_all_arrived},
    },
    sql::Sql,
};

/// What was acknowledged has arrived. What was refused, with one of these codes, was stored whole or not at all, and can
/// be published again.
pub(crate) async fn settle_accounts(
    publishers: Publishers,
    server: Address,
    receiver: &Receiver,
    sql: &Sql,
    codes: &[&str],
) {
    let (acknowledged, refused) = publishers.end().await;
    refused.assert_only(codes);
    let mut client = Client::connect(server).await.unwrap();
    until("it is ready again", async || client.get("/readyz").await.unwrap().0 == 200).await;
    acknowledged.arrive_at(receiver).await;
    sql.nothing_is_owed().await;

    let stored: HashSet<String> =
        sql.column::<String>("select id::text from admin.events").await.into_iter().collect();
    let all = acknowledged.all();
    assert!(all.is_subset(&stored), "{} are lost", all.difference(&stored).count());
    // The connection broke after the commit was sent: then nobody could know that it was stored.
    let unknown: HashSet<_> = stored.difference(&all).cloned().collect();
    println!("{} acknowledged, {:?} refused, {} of these stored", all.len(), refused.by_code, unknown.len());
    let arrived: HashSet<String> = receiver.arrivals.all().into_keys().collect();
    assert_eq!(arrived, stored, "what is stored is delivered, and nothing else");

    assert_eq!(refused.publish_again(&mut client).await, unknown);
    until_all_arrived(&acknowledged, &refused, receiver).await;
    sql.nothing_is_owed().await;
    sql.assert_histories_are_whole().await;
    let deliveries: i64 = sql.value("select count(*) from admin.deliveries").await;
    assert_eq!(usize::try_from(deliveries).unwrap(), all.len() + refused.ids.len());
    receiver.arrivals.assert_signed_first_attempts();
    receiver.arrivals.assert_as_published();
}
