//! The policy by tables and properties, the client against real sockets on loopback.

mod client;
mod dns;
mod http2;
mod misbehaving;
mod policy;
mod redirects;
mod shortage;
mod spellings;
mod support;
mod tls;
