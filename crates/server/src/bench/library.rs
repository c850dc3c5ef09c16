//! The library in this process: started for a mode, called like any embedding program would, and ended with it.

use std::path::Path;

use neo_events::{EndpointDraft, NeoEvents, SigningSecret, SubscriptionDraft};

use super::{
    payload::EVENT_TYPE,
    server_process::{STOP_TIMEOUT, endpoint_name, failed},
};
use crate::cli::failure::{Failure, with_causes};

/// Starts it.
pub(crate) async fn start_library(database: &Path) -> Result<NeoEvents, Failure> {
    let started = NeoEvents::builder(database).start().await;
    started.map_err(|error| failed(format!("the library does not start: {}", with_causes(&error))))
}

/// The library's endpoints, to be removed again.
pub(crate) struct LibraryEndpoints(Vec<neo_events::domain::id::EndpointId>);

impl LibraryEndpoints {
    /// None yet.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// Registers an endpoint for each URL, and subscribes it to the bench's events.
    pub(crate) async fn subscribe(
        &mut self,
        neo: &NeoEvents,
        urls: &[String],
        secret: &SigningSecret,
    ) -> Result<(), Failure> {
        let tenant = neo.platform();
        let refused = |error: neo_events::Error| failed(with_causes(&error));
        for (index, url) in urls.iter().enumerate() {
            let draft = EndpointDraft::standard(endpoint_name(index), url.clone());
            let created =
                tenant.create_endpoint(draft, Some(secret.reveal_token())).await.map_err(refused)?;
            self.0.push(created.endpoint.id);
            let draft =
                SubscriptionDraft { event_type: EVENT_TYPE.to_owned(), ..SubscriptionDraft::default() };
            tenant.create_subscription(created.endpoint.id, draft).await.map_err(refused)?;
        }
        Ok(())
    }

    /// Removes them and ends the library.
    pub(crate) async fn stop(self, neo: NeoEvents) -> Result<(), Failure> {
        let tenant = neo.platform();
        let mut removed = Ok(());
        for id in self.0 {
            let gone = tenant.delete_endpoint(id).await;
            removed = removed.and(gone.map(drop).map_err(|error| failed(with_causes(&error))));
        }
        neo.shutdown(STOP_TIMEOUT).await;
        removed
    }
}
