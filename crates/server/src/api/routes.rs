//! The table of routes. A route is written with what it needs of its caller, so none can be without; the check happens
//! before anything of the request but its head is read.

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{MethodFilter, on},
};
use neo_events::{Directory, Scope};

use super::access::Caller;
use crate::problem::Refusal;

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Not even a key.
    Nothing,
    /// A key with this scope in the tenant that it acts in.
    Scope(Scope),
    /// An admin key.
    AdminKey,
}

/// One route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// `GET`, `POST`, …
    pub method: &'static str,
    /// Parameters in braces: `/v1/events/{id}`.
    pub path: &'static str,
    /// Of its caller.
    pub needs: Needs,
}

/// Routes and their handlers.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Directory>,
    table: Vec<Route>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn get<H: Handler<T, Directory>, T: 'static>(
        self,
        path: &'static str,
        needs: Needs,
        handler: H,
    ) -> Self {
        self.on(MethodFilter::GET, Route { method: "GET", path, needs }, handler)
    }

    pub(super) fn post<H: Handler<T, Directory>, T: 'static>(
        self,
        path: &'static str,
        needs: Needs,
        handler: H,
    ) -> Self {
        self.on(MethodFilter::POST, Route { method: "POST", path, needs }, handler)
    }

    pub(super) fn patch<H: Handler<T, Directory>, T: 'static>(
        self,
        path: &'static str,
        needs: Needs,
        handler: H,
    ) -> Self {
        self.on(MethodFilter::PATCH, Route { method: "PATCH", path, needs }, handler)
    }

    pub(super) fn delete<H: Handler<T, Directory>, T: 'static>(
        self,
        path: &'static str,
        needs: Needs,
        handler: H,
    ) -> Self {
        self.on(MethodFilter::DELETE, Route { method: "DELETE", path, needs }, handler)
    }

    fn on<H: Handler<T, Directory>, T: 'static>(
        mut self,
        filter: MethodFilter,
        route: Route,
        handler: H,
    ) -> Self {
        let guarded = on(filter, handler).route_layer(from_fn_with_state(route.needs, permit));
        self.table.push(route);
        Self { router: self.router.route(route.path, guarded), table: self.table }
    }

    pub(super) fn and(mut self, others: Self) -> Self {
        self.table.extend(others.table);
        Self { router: self.router.merge(others.router), table: self.table }
    }

    pub(super) fn into_table(self) -> Vec<Route> {
        self.table
    }

    pub(super) fn into_router(self, directory: Directory) -> Router {
        self.router.with_state(directory)
    }
}

/// Lets a request through to its handler, if its caller may make it.
async fn permit(State(needs): State<Needs>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>();
    let refusal = match (needs, caller) {
        (Needs::Nothing, _) => None,
        (_, None) => Some(Refusal::unauthorized()),
        (Needs::Scope(scope), Some(caller)) if !caller.may(scope) => Some(Refusal::insufficient_scope(scope)),
        (Needs::AdminKey, Some(caller)) if !caller.is_admin() => Some(Refusal::admin_key_needed()),
        (Needs::Scope(_) | Needs::AdminKey, Some(_)) => None,
    };
    match refusal {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
    }
}
